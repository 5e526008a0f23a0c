//! End-to-end tests: the harness that starts the gateway and the simulator as a user would.
