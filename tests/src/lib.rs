//! End-to-end tests: the harness that starts the gateway as a user would, with the provider simulator behind it.
//!
//! Invariants: every port is chosen by the kernel; every process, thread and file that a test makes ends with it; nothing
//! sleeps where it can wait for an event. The gateway is a process of its own (its real binary, its real file), the simulator
//! runs inside the test. Deliberately absent: an HTTP library; the tests send and read bytes, because bytes are the subject.

pub mod accounts;
pub mod audit;
pub mod between;
pub mod binary;
pub mod certificates;
pub mod frames;
pub mod gateway;
pub mod http;
pub mod netns;
pub mod origin;
pub mod postgres;
pub mod privileges;
pub mod prometheus;
pub mod setup;
pub mod sim;
pub mod stall;
pub mod temp;
pub mod traffic;
pub mod wait;

pub use gateway::Gateway;
pub use http::{Client, Request, Response};
pub use serde_json::{Value, json};
pub use setup::Setup;
pub use sim::Sim;
