//! Does for the cores what must not keep them: asks an embedding service, decodes camera frames.
//!
//! Invariants: so many jobs at a time and no more, beyond that they are refused; frames are decoded on threads that do nothing else,
//! never on this one; what fails is logged at most once a minute. Deliberately absent: patience. A core stops waiting by itself,
//! and a result that comes later is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_wire::limits::{CACHE_DECODERS, CACHE_EMBEDDINGS_MAX, CACHE_JOBS_MAX};
use tokio::sync::{Semaphore, mpsc};

use super::frames;
use super::remote::Remote;
use crate::cache::prepare::{Helper, Job};

/// How often failures of the embedding service are logged.
const LOG_PERIOD: Duration = Duration::from_secs(60);

/// Starts the helper; it ends with the last core that knows it.
pub fn start(remote: Option<Remote>) -> Helper {
    let (sender, mut jobs) = mpsc::channel(CACHE_JOBS_MAX);
    let embedding = remote
        .as_ref()
        .map(|remote| (remote.fingerprint(), remote.timeout_ms()));
    let remote = remote.map(Arc::new);
    let decoders = Arc::new(Semaphore::new(CACHE_DECODERS));
    let embeddings = Arc::new(Semaphore::new(CACHE_EMBEDDINGS_MAX));
    tokio::spawn(async move {
        let logged = Arc::new(std::sync::Mutex::new(None::<Instant>));
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Frames(images, reply) => {
                    let Ok(permit) = decoders.clone().try_acquire_owned() else {
                        continue;
                    };
                    tokio::task::spawn_blocking(move || {
                        reply.put(images.iter().map(|image| frames::decode(image)).collect());
                        drop(permit);
                    });
                }
                Job::Embed(text, reply) => {
                    let (Some(remote), Ok(permit)) = (remote.clone(), embeddings.clone().try_acquire_owned()) else {
                        continue;
                    };
                    let logged = logged.clone();
                    tokio::spawn(async move {
                        let vector = remote.embed(&text).await;
                        if let Err(why) = &vector
                            && is_due(&logged)
                        {
                            tracing::warn!(why, "the embedding service gives no vector; texts are matched exactly");
                        }
                        reply.put(vector.ok());
                        drop(permit);
                    });
                }
            }
        }
    });
    Helper::new(sender, embedding)
}

fn is_due(logged: &std::sync::Mutex<Option<Instant>>) -> bool {
    let mut logged = logged.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let due = logged.is_none_or(|last| last.elapsed() >= LOG_PERIOD);
    if due {
        *logged = Some(Instant::now());
    }
    due
}
