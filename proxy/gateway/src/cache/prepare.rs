//! What a lookup needs and this core must not do itself: a text's vector from another service, frames decoded.
//!
//! Invariants: a core hands a job over and looks for its result once a millisecond, so that it waits for no other thread and no
//! thread has to wake it; a job that finds no room, fails, or is not done in time has no result, and the request goes on without
//! one, which is a miss. Deliberately absent: who does the job (`control/cache/helper.rs`).

use std::sync::{Arc, OnceLock};

use sluice_policy::cache::embed::Vector;
use sluice_policy::cache::image::FrameMap;
use tokio::sync::mpsc;

use crate::net;

/// Where jobs are handed in.
#[derive(Clone)]
pub struct Helper {
    jobs: mpsc::Sender<Job>,
    /// How vectors are asked for, if they are: which embedding, and for how long a request waits, in milliseconds.
    pub embedding: Option<([u8; 32], u64)>,
}

/// Something to do.
pub enum Job {
    /// Embed a text.
    Embed(Box<str>, Reply<Vector>),
    /// Decode frames, in base64; all of them, or there is no result.
    Frames(Vec<Box<str>>, Reply<Vec<FrameMap>>),
}

/// Where a result appears. `None` in it: there will be none.
pub struct Reply<T>(Arc<OnceLock<Option<T>>>);

/// What was prepared.
#[derive(Default)]
pub struct Prepared {
    /// The text's vector.
    pub vector: Option<Vector>,
    /// The images, decoded.
    pub frames: Option<Vec<FrameMap>>,
}

/// What a lookup asks for.
#[derive(Default)]
pub struct Wanted {
    /// A text to be embedded, and how long to wait, in milliseconds.
    pub text: Option<(Box<str>, u64)>,
    /// Images to be decoded, in base64, and how long to wait.
    pub frames: Option<(Vec<Box<str>>, u64)>,
}

impl<T> Reply<T> {
    /// The job is done, or will not be.
    pub fn put(self, result: Option<T>) {
        // Nobody else has this end.
        let _ = self.0.set(result);
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let _ = self.0.set(None);
    }
}

impl Helper {
    /// Hands jobs to whoever has the other end.
    pub fn new(jobs: mpsc::Sender<Job>, embedding: Option<([u8; 32], u64)>) -> Self {
        Self { jobs, embedding }
    }

    /// Has it prepared, as far as there is time.
    pub async fn prepare(&self, wanted: Wanted) -> Prepared {
        let text = wanted
            .text
            .map(|(text, wait_ms)| (self.hand_in(|reply| Job::Embed(text, reply)), wait_ms));
        let frames = wanted
            .frames
            .map(|(images, wait_ms)| (self.hand_in(|reply| Job::Frames(images, reply)), wait_ms));
        // Both are under way by now, so that the second wait has begun with the first.
        let mut waited_ms = 0;
        let vector = match text {
            Some((result, wait_ms)) => wait(result, wait_ms, &mut waited_ms).await,
            None => None,
        };
        let frames = match frames {
            Some((result, wait_ms)) => wait(result, wait_ms, &mut waited_ms).await,
            None => None,
        };
        Prepared { vector, frames }
    }

    /// Has a text embedded, for whoever can wait elsewhere than on a core: the result, once it is there.
    pub fn embed(&self, text: &str) -> impl Fn() -> Option<Option<Vector>> + use<> {
        let result = self.hand_in(|reply| Job::Embed(text.into(), reply));
        move || result.get().copied()
    }

    fn hand_in<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Arc<OnceLock<Option<T>>> {
        let result = Arc::new(OnceLock::new());
        // A job that finds no room is dropped, and says so.
        let _ = self.jobs.try_send(job(Reply(result.clone())));
        result
    }
}

/// The result, if it comes while less than `wait_ms` have passed in all.
async fn wait<T>(mut result: Arc<OnceLock<Option<T>>>, wait_ms: u64, waited_ms: &mut u64) -> Option<T> {
    loop {
        if result.get().is_some() {
            // The other end may be about to let go; whoever comes second takes it out.
            match Arc::try_unwrap(result) {
                Ok(cell) => return cell.into_inner().flatten(),
                Err(shared) => result = shared,
            }
        } else if *waited_ms >= wait_ms {
            return None;
        }
        net::pause_ms(1).await;
        *waited_ms += 1;
    }
}
