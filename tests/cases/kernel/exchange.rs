//! Either process dies, or falls silent, after each message of a handover: the port stays served.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use sluice_tests::between::{Between, Side};
use sluice_tests::gateway::pretty;
use sluice_tests::temp::TempDir;
use sluice_tests::{Client, Gateway, Request, Setup, Sim, Value, binary, wait};

use super::handover::Line;

/// Clients that ask all the time, each request over a connection of its own.
const ASKING: usize = 4;
/// Messages after which the new process has the sockets.
const SOCKETS_MOVED: usize = 3;
/// Messages after which the old one accepts no more.
const CEASED: usize = 4;

/// An old process, and where a new one meets whoever stands between them.
struct Scene {
    sim: Sim,
    old: Gateway,
    own: PathBuf,
    meeting: UnixListener,
    dir: TempDir,
}

/// A process that takes over, or tries to.
struct New {
    child: Child,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let (sim, dir) = (Sim::start(), TempDir::new());
        let own = dir.path().join("old");
        let old = Setup::with(&sim.base_url())
            .cores(2)
            .set("/handover/socket", own.display().to_string())
            .start();
        let meeting = UnixListener::bind(dir.path().join("between")).expect("a socket can be made");
        Self {
            sim,
            old,
            own,
            meeting,
            dir,
        }
    }

    /// Starts a new process that believes to speak to the old one.
    fn take_over(&self) -> (New, Between) {
        let setup = Setup::with(&self.sim.base_url()).set(
            "/handover/socket",
            self.dir.path().join("between").display().to_string(),
        );
        let dir = TempDir::new();
        let create = |name: &str| File::create(dir.path().join(name)).expect("a log file can be made");
        let config = dir.write("config.yaml", pretty(&setup.config));
        let child = Command::new(binary::sluice())
            .args(["serve", "--takeover", "--cores", "2", "--config"])
            .arg(config)
            .env_clear()
            .envs(setup.env)
            .stdin(Stdio::null())
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .spawn()
            .expect("the gateway's binary can be started");
        let new = New { child, dir };
        (new, Between::meet(&self.meeting, &self.own))
    }

    /// The old process serves, and the next handover succeeds.
    fn goes_on(&self) {
        self.old.expect_healthy();
        let mut line = Line::default();
        line.upgraded(&self.old);
        self.old.expect_healthy();
    }
}

impl New {
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn ended(&mut self) -> ExitStatus {
        wait::until("the new process ends", || {
            self.child.try_wait().expect("a child can be waited for")
        })
    }

    /// Where it listens, once it does.
    fn address(&self) -> SocketAddr {
        wait::until("the new process listens", || {
            let said = std::fs::read_to_string(self.dir.path().join("stdout")).unwrap_or_default();
            let lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let line: Value = lines
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(|line: &Value| line["msg"] == "listening")?;
            line["listen"][0].as_str()?.strip_prefix("http://")?.parse().ok()
        })
    }
}

impl Drop for New {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let said = std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
            eprintln!("--- the new process's stderr\n{said}");
        }
    }
}

/// Clients that ask until they are stopped; none of their requests may fail.
struct Asking {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Asking {
    fn start(address: SocketAddr) -> Self {
        let (stop, good) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let clients = (0..ASKING).map(|_| {
            let (stop, good) = (stop.clone(), good.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ask(address);
                    good.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Self {
            clients: clients.collect(),
            stop,
            good,
        }
    }

    fn pass(&self, count: u64) {
        let goal = self.good.load(Ordering::Relaxed) + count;
        wait::until("requests are answered", || {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a request failed");
            (self.good.load(Ordering::Relaxed) >= goal).then_some(())
        });
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no request fails");
        }
    }
}

/// One request over a connection of its own.
fn ask(address: SocketAddr) {
    let request = Request::chat("openai/healthy").field("Connection", "close");
    let answer = Client::connect(address).ask(&request);
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[test]
fn a_new_process_that_is_killed_after_any_message_leaves_the_port_to_the_old_one() {
    for passed in 0..=CEASED {
        let scene = Scene::new();
        let asking = Asking::start(scene.old.address);
        let (mut new, mut between) = scene.take_over();
        between.pass(passed);
        if passed < CEASED {
            // However long it is silent here.
            asking.pass(20);
        } else {
            // What the old process says now nobody hears.
            let state: Value = serde_json::from_str(&between.held(Side::Old)).expect("the state is JSON");
            assert!(state["targets"].is_array(), "{state}");
        }
        new.kill();
        drop(between);
        asking.pass(20);
        asking.stop();
        scene.goes_on();
    }
}

#[test]
fn a_new_process_that_is_killed_when_it_has_just_begun_to_accept_leaves_the_port_to_the_old_one() {
    let scene = Scene::new();
    let (mut new, mut between) = scene.take_over();
    between.pass(CEASED + 1);
    assert_eq!(between.held(Side::New), "serving\n");
    new.kill();
    drop(between);
    let asking = Asking::start(scene.old.address);
    asking.pass(20);
    asking.stop();
    scene.goes_on();
}

#[test]
fn an_old_process_that_is_killed_after_any_message_leaves_the_port_to_the_new_one() {
    for passed in 0..=Between::ALL {
        let mut scene = Scene::new();
        let (new, mut between) = scene.take_over();
        between.pass(passed);
        scene.old.kill();
        drop(between);
        if passed < SOCKETS_MOVED {
            // The sockets died with it: the new process makes its own.
            ask(new.address());
        } else {
            // The first of these come before it accepts, and wait.
            let asking = Asking::start(scene.old.address);
            asking.pass(20);
            asking.stop();
            assert_eq!(new.address(), scene.old.address);
        }
    }
}

#[test]
fn a_new_process_whose_word_comes_too_late_ends_and_no_request_is_lost() {
    let scene = Scene::new();
    let asking = Asking::start(scene.old.address);
    let (mut new, mut between) = scene.take_over();
    between.pass(CEASED + 1);
    assert_eq!(between.held(Side::New), "serving\n");
    // Both serve for a moment; the old one has lost its patience.
    let said = between.held(Side::Old);
    assert_eq!(said, "resumed\n");
    asking.pass(20);
    between.say(Side::New, &said);
    let status = new.ended();
    assert!(!status.success(), "{status}");
    asking.pass(20);
    asking.stop();
    scene.goes_on();
}

#[test]
fn an_old_process_that_says_it_goes_on_is_believed_at_once() {
    for passed in [1, CEASED] {
        let scene = Scene::new();
        let (mut new, mut between) = scene.take_over();
        between.pass(passed);
        between.say(Side::New, "resumed\n");
        assert!(!new.ended().success());
        drop(between);
        scene.goes_on();
    }
}

#[test]
fn nonsense_instead_of_any_message_leaves_the_port_to_the_old_process() {
    for (passed, nonsense) in [(0, "gimme"), (3, "maybe"), (5, "perhaps")] {
        let scene = Scene::new();
        let asking = Asking::start(scene.old.address);
        let (mut new, mut between) = scene.take_over();
        between.pass(passed.min(CEASED));
        if passed > CEASED {
            let _ = between.held(Side::Old);
        }
        new.kill();
        between.say(Side::Old, &format!("{nonsense}\n"));
        asking.pass(20);
        asking.stop();
        scene.goes_on();
    }
    // A second one that asks meanwhile is told so.
    let scene = Scene::new();
    let (_first, mut between) = scene.take_over();
    between.pass(1);
    let (mut second, mut other) = scene.take_over();
    other.pass(2);
    assert!(!second.ended().success());
    drop((between, other));
}
