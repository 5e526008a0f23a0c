//! The metrics that are not counters of one core: name, type, unit, labels and meaning of each, once.
//!
//! Invariants: whoever writes a metric names its entry here, and the reference (`config/METRICS.md`) is made from the same
//! entries. Names follow Prometheus' conventions, and OpenTelemetry's for `gen_ai_*` (dots become underscores, units are
//! appended). Deliberately absent: counters and gauges of single cores, which `meter.rs` defines with the fields they are.

use super::Kind;

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, with `_total` if it is a counter.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// What it is measured in; empty for plain counts.
    pub unit: &'static str,
    /// The labels that its samples have, in order.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! families {
    ($( $kind:ident $field:ident = $name:literal [$($label:literal),*] $unit:literal, $help:literal; )*) => {
        $(
            #[doc = $help]
            pub const $field: Family = Family {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        /// All of them, in the order of the reference.
        pub const ALL: &[Family] = &[$($field),*];
    };
}

families! {
    Gauge REQUESTS_IN_FLIGHT = "sluice_requests_in_flight" [] "", "Requests under way.";
    Histogram REQUEST_SECONDS = "sluice_request_duration_seconds" [] "seconds", "From the first byte of a request to the last byte of its answer.";
    Histogram ADDED_SECONDS = "sluice_request_added_seconds" [] "seconds", "What the gateway added until the first byte of the answer: without the client's sending, waiting for a place, and the provider.";
    Histogram UPSTREAM_SECONDS = "sluice_request_upstream_seconds" [] "seconds", "From sending to the provider that was asked last until its first byte.";
    Histogram FIRST_TOKEN_SECONDS = "sluice_request_first_token_seconds" [] "seconds", "From the first byte of a request to the first event of its stream.";
    Histogram BETWEEN_TOKENS_SECONDS = "sluice_request_between_tokens_seconds" [] "seconds", "From one output token of a stream to the next, on average over the stream; where tokens are counted (`accounts` or `metrics.tokens`).";
    Histogram QUEUE_SECONDS = "sluice_request_queue_seconds" [] "seconds", "Waiting for places at providers whose concurrency is limited, of requests that waited.";
    Counter TARGET_ATTEMPTS = "sluice_target_attempts_total" ["provider", "model"] "", "Requests sent to a target.";
    Counter TARGET_SUCCEEDED = "sluice_target_attempts_succeeded_total" ["provider", "model"] "", "Of those, answers that reached the client whole.";
    Counter TARGET_FAILED = "sluice_target_attempts_failed_total" ["provider", "model", "code"] "", "Of those, attempts that failed, by error code.";
    Counter TARGET_ABANDONED = "sluice_target_attempts_abandoned_total" ["provider", "model"] "", "Of those, attempts that somebody else ended: the client left, or another target was faster.";
    Counter TARGET_TOKENS = "sluice_target_tokens_total" ["provider", "model", "kind"] "", "Tokens that answers say they have used. Kinds: `input` (cached ones included), `cached`, `output`. Counted with `accounts` or `metrics.tokens`.";
    Counter TARGET_COST = "sluice_target_cost_usd_total" ["provider", "model"] "", "Dollars charged for requests to a target.";
    Counter FALLBACKS = "sluice_fallbacks_by_pair_total" ["from", "to", "reason"] "", "Requests that another target than the first answered, by both and by why the first did not.";
    Counter FAILURES_BY_CODE = "sluice_upstream_failures_by_code_total" ["code"] "", "Attempts that gave no answer for the client, by error code; what could not be sent included.";
    Counter FALLBACKS_BY_REASON = "sluice_fallbacks_by_reason_total" ["code"] "", "Requests that another target than the first answered, by why the first did not.";
    Counter KEY_REQUESTS = "sluice_virtual_key_requests_total" ["virtual_key"] "", "Requests of a virtual key. Shown are the keys with most requests; all others together are `other`.";
    Counter KEY_FAILED = "sluice_virtual_key_requests_failed_total" ["virtual_key"] "", "Of those, requests that got no whole successful answer, refusals by limits and budgets included.";
    Counter KEY_TOKENS = "sluice_virtual_key_tokens_total" ["virtual_key", "kind"] "", "Tokens of a virtual key's requests. Kinds: `input`, `output`.";
    Counter KEY_COST = "sluice_virtual_key_cost_usd_total" ["virtual_key"] "", "Dollars charged to a virtual key.";
    Gauge BUDGET_LIMIT = "sluice_budget_limit_usd" ["budget", "owner", "window"] "", "What a budget may spend in a period. Shown are the budgets nearest their end.";
    Gauge BUDGET_SPENT = "sluice_budget_spent_usd" ["budget", "owner", "window"] "", "What was spent of it in this period, as far as the store knows.";
    Gauge BUDGET_REMAINING = "sluice_budget_remaining_usd" ["budget", "owner", "window"] "", "What is left of it.";
    Gauge BUDGET_LEASED = "sluice_budget_leased_usd" [] "", "What this process has leased of all budgets and not spent.";
    Gauge BUDGETS = "sluice_budgets" [] "", "Budgets that there are.";
    Counter SOFT_LIMITS = "sluice_budget_soft_limits_passed_total" [] "", "Times that a budget's soft limit was passed.";
    Gauge LEDGER_WAITING = "sluice_ledger_entries_waiting" [] "", "Requests that the ledger does not have yet.";
    Counter LEDGER_LOST = "sluice_ledger_entries_lost_total" [] "", "Requests missing in the ledger because the store did not follow. Budgets have counted them all the same.";
    Gauge STORE_FAILING = "sluice_store_failing" [] "", "1 while the store of keys and budgets cannot be written.";
    Gauge TARGET_STATE = "sluice_target_state" ["target"] "", "0: requests pass, 1: a probe is under way, 2: left alone.";
    Gauge TARGET_IN_FLIGHT = "sluice_target_in_flight" ["target"] "", "Attempts under way.";
    Gauge TARGET_FIRST_TOKEN = "sluice_target_first_token_seconds" ["target"] "seconds", "Recent mean time to the first token of streamed answers.";
    Gauge TARGET_FIRST_BYTE = "sluice_target_first_byte_seconds" ["target"] "seconds", "Recent mean time to other answers.";
    Gauge TARGETS_LEFT_ALONE = "sluice_targets_left_alone" [] "", "Targets that get no requests but probes.";
    Gauge TARGETS_KNOWN = "sluice_targets_known" [] "", "Targets that are remembered.";
    Gauge KEY_STATE = "sluice_key_state" ["provider", "key"] "", "0: usable, 1: resting after a 429 (for one model at least), 2: refused by the provider.";
    Gauge KEY_SHARE = "sluice_key_share" ["provider", "key"] "", "Part of its weight that a key is chosen by; below 1 as a limit comes near.";
    Histogram OPERATION_SECONDS = "gen_ai_client_operation_duration_seconds" ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "error_type"] "seconds", "OpenTelemetry's gen_ai.client.operation.duration: attempts at a provider, from sending to the end of the answer. `error_type` is `_OTHER` for failed ones; the codes are in `sluice_target_attempts_failed_total`.";
    Histogram TOKEN_USAGE = "gen_ai_client_token_usage" ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_token_type"] "", "OpenTelemetry's gen_ai.client.token.usage: tokens of single answers, `input` and `output`. Counted with `accounts` or `metrics.tokens`.";
    Histogram SERVER_FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds" ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"] "seconds", "OpenTelemetry's gen_ai.server.time_to_first_token, of streams, as the gateway sees it.";
    Histogram SERVER_PER_TOKEN = "gen_ai_server_time_per_output_token_seconds" ["gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"] "seconds", "OpenTelemetry's gen_ai.server.time_per_output_token: after the first one, on average over an answer. Counted with `accounts` or `metrics.tokens`.";
    Gauge CACHE_BOUND = "sluice_cache_error_upper_bound" [] "", "Highest share of wrong matches by meaning that checks leave possible, of all tenants' routes (95 % confidence).";
    Gauge CACHE_TOLERANCE = "sluice_cache_error_tolerance" [] "", "The share beyond which matches by meaning are switched off.";
    Gauge CACHE_CHECKS = "sluice_cache_checks" [] "", "Checks of matches by meaning that count.";
    Gauge CACHE_OFF = "sluice_cache_switched_off" [] "", "Tenants' routes whose matches by meaning are not served, because checks found too many wrong.";
    Gauge CACHE_QUARANTINED = "sluice_cache_quarantined" [] "", "Pairs of templates that are not served, because their answers differed once.";
    Counter CACHE_WRITTEN = "sluice_cache_snapshots_written_total" [] "", "Times that the cache's file was written.";
    Counter CACHE_WRITE_FAILED = "sluice_cache_snapshots_failed_total" [] "", "Times that it could not be.";
    Counter CACHE_REFUSED = "sluice_cache_snapshots_refused_total" [] "", "Files that were refused at the start.";
    Gauge CACHE_RESTORED = "sluice_cache_restored" [] "", "Answers that the file held at the start.";
    Gauge BUILD_INFO = "sluice_build_info" ["version"] "", "1, with the version of the program.";
    Gauge CONFIG_INFO = "sluice_config_info" ["hash"] "", "1, with the first half of the SHA-256 of the configuration file in force.";
    Gauge CONFIG_GENERATION = "sluice_config_generation" [] "", "Generation of the configuration in force.";
    Counter CONFIG_RELOADS = "sluice_config_reloads_total" [] "", "Configurations taken over since start.";
    Counter CONFIG_REFUSED = "sluice_config_refused_total" [] "", "Configurations refused since start.";
    Gauge CONFIG_RELOADED_AT = "sluice_config_last_reload_timestamp_seconds" [] "seconds", "When a configuration was last taken over or refused, in seconds since the epoch; at first the start.";
    Gauge CONFIG_RELOAD_OK = "sluice_config_last_reload_successful" [] "", "Whether that one was taken over.";
    Counter CORE_CPU = "sluice_thread_cpu_seconds_total" ["thread"] "seconds", "Processor time of each of the gateway's threads: `core-N`, and `control` for the rest.";
    Histogram CORE_LAG = "sluice_core_loop_lag_seconds" ["core"] "seconds", "How late a core's tick came: the lag of its event loop.";
    Counter SCRAPES = "sluice_scrapes_total" [] "", "Times that this page was asked for.";
    Gauge SCRAPE_SECONDS = "sluice_last_scrape_seconds" [] "seconds", "How long making this page took, the time before.";
    Counter PROCESS_CPU = "process_cpu_seconds_total" [] "seconds", "Processor time of the process.";
    Gauge PROCESS_MEMORY = "process_resident_memory_bytes" [] "bytes", "Resident memory.";
    Gauge PROCESS_FDS = "process_open_fds" [] "", "Open descriptors.";
    Gauge PROCESS_FDS_MAX = "process_max_fds" [] "", "Descriptors that there may be.";
    Gauge PROCESS_STARTED = "process_start_time_seconds" [] "seconds", "When the process started, in seconds since the epoch.";
    Gauge EBPF_TIER = "sluice_ebpf_tier" ["tier", "state"] "", "1 for the state that holds. Tiers: `reuseport`, `steering`, `accounting`; states: `on`, `off`. `/admin` says why.";
    Gauge EBPF_LOST = "sluice_ebpf_tiers_lost" [] "", "Tiers that the configuration asks for and that are off all the same.";
    Gauge KERNEL_SHARE = "sluice_kernel_measured_share" [] "", "Share of the time in which exchanges are measured: less than 1 on a busy machine.";
    Counter STEERING_PICKED = "sluice_steering_picked_total" ["core"] "", "Connections that were sent to each core.";
    Histogram KERNEL_CONNECT = "sluice_kernel_connect_seconds" ["role", "name"] "seconds", "From connect(2) until the connection stood.";
    Histogram KERNEL_HANDSHAKE = "sluice_kernel_handshake_rtt_seconds" ["role", "name"] "seconds", "Round-trip time of the TCP handshake.";
    Histogram KERNEL_SRTT = "sluice_kernel_srtt_seconds" ["role", "name"] "seconds", "Smoothed round-trip time when the connection ended.";
    Histogram KERNEL_RETRANSMITS = "sluice_kernel_retransmits" ["role", "name"] "", "Segments sent again over the life of a connection.";
    Histogram KERNEL_SENT = "sluice_kernel_sent_bytes" ["role", "name"] "bytes", "Bytes that the peer acknowledged over the life of a connection.";
    Histogram KERNEL_RECEIVED = "sluice_kernel_received_bytes" ["role", "name"] "bytes", "Bytes received over the life of a connection.";
    Histogram KERNEL_ACCEPT = "sluice_kernel_accept_queue_seconds" ["role", "name"] "seconds", "From the end of a client's handshake until the gateway read from it first.";
    Histogram KERNEL_READY = "sluice_kernel_ready_wait_seconds" ["role", "name"] "seconds", "From the arrival of data until the gateway read it: the lag of its event loop.";
    Histogram KERNEL_FIRST = "sluice_kernel_first_byte_seconds" ["role", "name"] "seconds", "Per socket: from the arrival (upstream: the end) of what was asked to the first byte of the answer.";
    Histogram KERNEL_LAST = "sluice_kernel_last_byte_seconds" ["role", "name"] "seconds", "Per socket: from the arrival (upstream: the end) of what was asked to the last byte of the answer.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::CoreMeter;

    #[test]
    fn names_say_kind_and_unit_and_are_there_once() {
        let mut names: Vec<&str> = CoreMeter::TABLE.iter().map(|(name, ..)| *name).collect();
        for family in ALL {
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{}",
                family.name
            );
            let stem = family.name.trim_end_matches("_total");
            assert!(family.unit.is_empty() || stem.ends_with(family.unit), "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
            names.push(family.name);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
