//! The container runtime interface, by which a kubelet has a runtime make pods: as much of a client as the tests need.

mod messages;

use std::{path::Path, time::Duration};

pub(crate) use messages::*;
use prost::Message;
use tokio::runtime::Runtime;
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// What the longest call may take: it unpacks an image, has the network made and starts a process.
const PATIENCE: Duration = Duration::from_mins(2);

/// A client of one runtime.
pub(crate) struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects with the first call, and anew after a connection is lost.
    pub(crate) fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()));
        let _entered = runtime.enter();
        let channel = endpoint.expect("a path is an address").timeout(PATIENCE).connect_lazy();
        Self { runtime, channel }
    }

    /// Calls a method of the service of containers, or of that of images.
    fn call<Q, A>(&self, method: &str, question: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.{method}")).expect("it is a path");
        self.runtime.block_on(async {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            Ok(grpc.unary(Request::new(question), path, codec).await?.into_inner())
        })
    }

    /// Whether containers can be made, and their network.
    pub(crate) fn is_ready(&self) -> Result<bool, Status> {
        let StatusResponse { status } = self.call("RuntimeService/Status", ())?;
        let conditions = status.unwrap_or_default().conditions;
        Ok(["RuntimeReady", "NetworkReady"].iter().all(|kind| {
            conditions.iter().any(|condition| condition.kind == *kind && condition.status)
        }))
    }

    /// Whether it has an image.
    pub(crate) fn has_image(&self, image: &str) -> Result<bool, Status> {
        let image = Some(ImageSpec { image: image.to_owned() });
        let answer: ImageStatusResponse =
            self.call("ImageService/ImageStatus", ImageStatusRequest { image })?;
        Ok(answer.image.is_some())
    }

    /// Makes a pod without containers; its id.
    pub(crate) fn run_pod(&self, config: PodSandboxConfig) -> Result<String, Status> {
        let question = RunPodSandboxRequest { config: Some(config) };
        let answer: PodSandboxId = self.call("RuntimeService/RunPodSandbox", question)?;
        Ok(answer.pod_sandbox_id)
    }

    /// Address of a pod; empty if it is in the node's own network.
    pub(crate) fn pod_address(&self, id: &str) -> Result<String, Status> {
        let question = PodSandboxId { pod_sandbox_id: id.to_owned() };
        let answer: PodSandboxStatusResponse =
            self.call("RuntimeService/PodSandboxStatus", question)?;
        Ok(answer.status.unwrap_or_default().network.unwrap_or_default().ip)
    }

    /// The ids of all pods.
    pub(crate) fn pods(&self) -> Result<Vec<String>, Status> {
        let answer: ListPodSandboxResponse = self.call("RuntimeService/ListPodSandbox", ())?;
        Ok(answer.items.into_iter().map(|pod| pod.id).collect())
    }

    /// Ends what runs in a pod, and takes its network away.
    pub(crate) fn stop_pod(&self, id: &str) -> Result<(), Status> {
        let question = PodSandboxId { pod_sandbox_id: id.to_owned() };
        self.call("RuntimeService/StopPodSandbox", question)
    }

    /// Removes a pod with its containers.
    pub(crate) fn remove_pod(&self, id: &str) -> Result<(), Status> {
        let question = PodSandboxId { pod_sandbox_id: id.to_owned() };
        self.call("RuntimeService/RemovePodSandbox", question)
    }

    /// Makes a container in a pod; its id.
    pub(crate) fn create(
        &self,
        pod: (&str, &PodSandboxConfig),
        container: ContainerConfig,
    ) -> Result<String, Status> {
        let question = CreateContainerRequest {
            pod_sandbox_id: pod.0.to_owned(),
            config: Some(container),
            sandbox_config: Some(pod.1.clone()),
        };
        let answer: ContainerId = self.call("RuntimeService/CreateContainer", question)?;
        Ok(answer.container_id)
    }

    /// Starts a container.
    pub(crate) fn start(&self, id: &str) -> Result<(), Status> {
        self.call("RuntimeService/StartContainer", ContainerId { container_id: id.to_owned() })
    }

    /// Has a container end by SIGTERM, and by SIGKILL after some time.
    pub(crate) fn stop(&self, id: &str, patience: Duration) -> Result<(), Status> {
        let timeout = patience.as_secs().cast_signed();
        let question = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.call("RuntimeService/StopContainer", question)
    }

    /// The exit code of a container that has ended.
    pub(crate) fn exit_code(&self, id: &str) -> Result<Option<i32>, Status> {
        let question = ContainerId { container_id: id.to_owned() };
        let answer: ContainerStatusResponse =
            self.call("RuntimeService/ContainerStatus", question)?;
        let status = answer.status.unwrap_or_default();
        Ok((status.state == CONTAINER_EXITED).then_some(status.exit_code))
    }

    /// Removes a container that has ended.
    pub(crate) fn remove(&self, id: &str) -> Result<(), Status> {
        self.call("RuntimeService/RemoveContainer", ContainerId { container_id: id.to_owned() })
    }
}
