{{/*
Labels of every object: the project's, and Helm's own.
*/}}
{{- define "observer.labels" -}}
app.kubernetes.io/part-of: observer
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/*
The image.
*/}}
{{- define "observer.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/*
The objects of a file of the manifests, in the release's namespace and with its labels. Takes the root as `root`, the
file's path as `file`, and `more` labels.
*/}}
{{- define "observer.objects" -}}
{{- $root := .root -}}
{{- range splitList "\n---\n" ($root.Files.Get (printf "manifests/%s" .file)) }}
{{- $object := fromYaml . -}}
{{- include "observer.object" (dict "root" $root "object" $object "more" $.more) }}
{{- end }}
{{- end }}

{{/*
One object.
*/}}
{{- define "observer.object" -}}
{{- $object := .object -}}
{{- $here := .root.Release.Namespace -}}
{{- $labels := merge (fromYaml (include "observer.labels" .root)) (.more | default dict) ($object.metadata.labels | default dict) -}}
{{- $_ := set $object.metadata "labels" $labels -}}
{{- if eq ($object.metadata.namespace | default "") "observer" -}}
{{- $_ := set $object.metadata "namespace" $here -}}
{{- end -}}
{{- range $object.subjects -}}
{{- if eq .namespace "observer" -}}
{{- $_ := set . "namespace" $here -}}
{{- end -}}
{{- end -}}
{{- if hasKey ($object.spec | default dict) "namespaceSelector" -}}
{{- $_ := set $object.spec.namespaceSelector "matchNames" (list $here) -}}
{{- end }}
---
{{ toYaml $object }}
{{- end }}
