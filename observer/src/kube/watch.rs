//! Lists and watches the pods of one node, for ever.

use std::{
    error::Error,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use http::Response;
use kube::{
    Api, Client,
    client::ClientBuilder,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tower::util::MapResponseLayer;
use tracing::{debug, info, warn};

use super::object::Object;
use crate::attribute::{Names, Trouble};

/// Pods of one page of a list: a page is in memory as a whole, some 10 KiB for each pod.
const PAGE: u32 = 50;
/// How long the API server keeps a watch open, seconds.
const WATCH_SECONDS: u32 = 240;
/// How long it may say nothing. It sends a bookmark about once a minute, and ends a watch by itself after
/// [`WATCH_SECONDS`].
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 10);

/// Before pods are listed anew because a watch could not be started.
const PAUSE: Duration = Duration::from_secs(5);

/// A client that notes in `names` whenever it is answered.
pub(super) fn client(
    mut config: kube::Config,
    names: &Arc<Mutex<Names>>,
) -> Result<Client, kube::Error> {
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // The watcher tries again by itself, with pauses that grow; and what fails is to be counted.
    config.default_retry = false;
    let names = Arc::clone(names);
    // The watcher says nothing when a watch that was interrupted goes on.
    let answered = MapResponseLayer::new(move |response: Response<_>| {
        if response.status().is_success() {
            lock(&names).note_answer();
        }
        response
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&answered).build())
}

/// Keeps `names` up to date. Never ends.
pub(super) async fn keep(client: Client, node: String, names: Arc<Mutex<Names>>) {
    let config = watcher::Config::default()
        .fields(&format!("spec.nodeName={node}"))
        .page_size(PAGE)
        .timeout(WATCH_SECONDS);
    let mut said = Said::Nothing;
    loop {
        let pods = Api::<Object>::all(client.clone());
        let mut events = pin!(watcher(pods, config.clone()).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    apply(event, &mut lock(&names));
                    let health = lock(&names).health();
                    if health.current && said != Said::Current {
                        info!(pods = health.pods, node, "pods have the API server's names");
                        said = Said::Current;
                    }
                }
                Err(error) => {
                    let trouble = trouble(&error);
                    lock(&names).note_trouble(trouble);
                    if said != Said::Trouble && trouble != Trouble::Expired {
                        warn!(
                            error = causes(&error),
                            "no names from the API server: known ones stay, new pods go by their UID"
                        );
                        said = Said::Trouble;
                    } else {
                        debug!(error = causes(&error), "still no names from the API server");
                    }
                    if lists_anew(&error) {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The error with what caused it: where nobody answers is not in the outermost.
fn causes(error: &dyn Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

/// Whether a watch can never go on: the server knows nothing of the last event any more (410), or not yet (504, after it
/// was restored from a backup). The watcher sees to it if the server says so within a watch, not if it does at its start.
fn lists_anew(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if [410, 504].contains(&status.code))
}

/// What the log said last: once for each change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Current,
    Trouble,
}

fn apply(event: Event<Object>, names: &mut Names) {
    match event {
        Event::Init => names.begin_list(),
        Event::InitDone => names.end_list(),
        Event::InitApply(object) | Event::Apply(object) => names.apply(object.pod),
        Event::Delete(object) => names.delete(&object.pod.uid),
    }
}

fn trouble(error: &watcher::Error) -> Trouble {
    match error {
        watcher::Error::WatchError(status) if status.code == 410 => Trouble::Expired,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 410 => {
            Trouble::Expired
        }
        watcher::Error::InitialListFailed(_) => Trouble::List,
        _ => Trouble::Watch,
    }
}

/// No method of [`Names`] leaves it half-done, should it panic.
fn lock(names: &Mutex<Names>) -> MutexGuard<'_, Names> {
    names.lock().unwrap_or_else(PoisonError::into_inner)
}
