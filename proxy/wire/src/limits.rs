//! Every bound of the wire and the data plane, in one place.
//!
//! Invariants: relations between bounds are asserted at compile time, below. A bound that an operator may change has its
//! *default* here and its range in the configuration. Deliberately absent: timeouts (they are configuration).

/// Largest request or response head (request line or status line, header fields, final CRLF), in bytes. Beyond: 431 to a
/// client, `upstream_protocol_error` for a provider.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Most header fields in one head.
pub const HEADER_FIELDS_MAX: usize = 100;
/// Longest method token, in bytes.
pub const METHOD_BYTES_MAX: usize = 32;
/// Longest request target, in bytes. Beyond: 414.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Default for the largest request body, in bytes (`limits.body_bytes`). Beyond: 413.
pub const BODY_BYTES_DEFAULT: u64 = 32 * 1024 * 1024;
/// Largest value that `limits.body_bytes` may be set to.
pub const BODY_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Deepest nesting of arrays and objects in a request's JSON. Beyond: 400.
pub const JSON_DEPTH_MAX: u32 = 128;
/// Longest chunk-size line (size and extensions, without CRLF), in bytes (RFC 9112 §7.1).
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// Most bytes by which the framing of a chunked body may exceed 16 bytes and twice the payload per chunk, summed up: it
/// bounds what a peer can make us read for next to no payload.
pub const CHUNK_EXCESS_BYTES_MAX: u64 = 16 * 1024;
/// Largest trailer section of a chunked body, in bytes.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Most 1xx responses before the final one; the next one is a protocol error.
pub const INTERIM_RESPONSES_MAX: u32 = 16;
/// Longest model name, `provider/` prefix included, in bytes.
pub const MODEL_BYTES_MAX: usize = 256;
/// Largest single server-sent event that is held back to be delivered whole, in bytes; a larger one is passed on in pieces.
pub const SSE_EVENT_BYTES_MAX: usize = 256 * 1024;
/// Longest line of one server-sent event that a translator buffers, in bytes; a longer one is a protocol error.
pub const SSE_LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest AWS event-stream message, in bytes (the service's own limit is 16 MiB of payload and 128 KiB of headers).
pub const EVENTSTREAM_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 + 128 * 1024 + 16;
/// Largest header section of one AWS event-stream message, in bytes (the service's own limit).
pub const EVENTSTREAM_HEADERS_BYTES_MAX: usize = 128 * 1024;
/// Memory that an event-stream decoder keeps between two messages, in bytes; what one large message needed is given back.
pub const EVENTSTREAM_RETAINED_BYTES_MAX: usize = 64 * 1024;
/// Largest distance between the clock and `x-amz-date` of a signed request, either way, in seconds (AWS's own tolerance).
pub const SIGV4_SKEW_S_MAX: u64 = 300;
/// Derived AWS signing keys that one core keeps (one an access key, day, region and service).
pub const SIGV4_KEYS_CACHED: usize = 64;
/// Most pairs of `requestMetadata` that Converse takes.
pub const BEDROCK_METADATA_MAX: usize = 16;
/// Longest name of a document that Converse takes, in bytes.
pub const BEDROCK_DOCUMENT_NAME_BYTES_MAX: usize = 200;
/// Longest access key id, region or service in a credential scope, in bytes (AWS: 128 for an access key id).
pub const SIGV4_SCOPE_PART_BYTES_MAX: usize = 128;
/// Largest upstream response body that is translated (and therefore collected) rather than relayed, in bytes.
pub const TRANSLATED_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Tokens of an answer where the dialect demands a number and nobody gave one (`max_tokens_default`): no Claude model has a
/// lower limit of its own.
pub const MAX_TOKENS_DEFAULT: u32 = 4096;
/// Longest answer that another provider is asked to go on with after its stream was cut, in bytes of text.
pub const RESUMED_TEXT_BYTES_MAX: usize = 64 * 1024;
/// Most of a stream that is held back so that another target may start it anew, in bytes of its events.
pub const RESTART_BYTES_MAX: usize = SSE_EVENT_BYTES_MAX;
/// Shortest string that a translated body references in its source instead of copying, in bytes.
pub const SPLICE_BYTES_MIN: usize = 4 * 1024;
/// Most losses that one translated request names in its warning header.
pub const NOTES_MAX: usize = 32;
/// Longest name of an unknown field in a warning header, in bytes.
pub const NOTE_BYTES_MAX: usize = 64;
/// Most parts (text, tool calls, …) of one streamed answer; beyond it is a protocol error.
pub const STREAM_PARTS_MAX: u32 = 4096;
/// Most answers (`n`) that a streamed response is followed for; beyond it is a protocol error.
pub const STREAM_CHOICES_MAX: usize = 128;

/// Largest `usage` object that is read out of an answer, in bytes.
pub const USAGE_BYTES_MAX: usize = 8 * 1024;
/// Longest multipart boundary, in bytes (RFC 2046 §5.1.1).
pub const MULTIPART_BOUNDARY_BYTES_MAX: usize = 70;
/// Largest head of one multipart part, in bytes.
pub const MULTIPART_PART_HEAD_BYTES_MAX: usize = 4 * 1024;
/// Most parts of one multipart body that are looked at for the model field.
pub const MULTIPART_PARTS_MAX: u32 = 64;
/// Longest PROXY protocol v1 line including CRLF, in bytes (specification §2.1).
pub const PROXY_V1_BYTES_MAX: usize = 107;
/// Longest PROXY protocol v2 header, address block and TLVs included, in bytes.
pub const PROXY_V2_BYTES_MAX: usize = 16 + 4096;

/// Receive buffer of a connection that waits, in bytes: nearly all that an idle connection holds, which with its task and
/// bookkeeping is to stay within 8 KiB. A chat request of text and its head fit.
pub const RECV_SMALL_BYTES: usize = 3584;
/// Receive buffer of a connection in the middle of something large, in bytes.
pub const RECV_LARGE_BYTES: usize = 64 * 1024;
/// Free small receive buffers that a core keeps for reuse.
pub const RECV_SMALL_FREE_MAX: usize = 4096;
/// Free large receive buffers that a core keeps for reuse.
pub const RECV_LARGE_FREE_MAX: usize = 64;
/// Most pieces handed to the kernel in one vectored write (`IOV_MAX` is 1024).
pub const SEND_PARTS_MAX: usize = 512;
/// Targets that one request may be sent to: a canary, those of a route, and its fallbacks.
pub const TARGETS_MAX: usize = 1 + ROUTE_TARGETS_MAX + FALLBACKS_MAX;
/// Targets of one route that a request chooses from.
pub const ROUTE_TARGETS_MAX: usize = 8;
/// Fallbacks of one route or one request.
pub const FALLBACKS_MAX: usize = 7;
/// Targets whose health is remembered at a time; a power of two.
pub const HEALTH_TARGETS: usize = 1024;
/// Bytes of a target's name, `PROVIDER/MODEL`, that metrics and the admin interface show.
pub const HEALTH_NAME_BYTES_MAX: usize = 96;
/// Copies of requests to shadow targets that one core has under way; beyond, none is made.
pub const SHADOWS_MAX: u32 = 32;
/// Largest body of a request that is copied to a shadow target, in bytes.
pub const SHADOW_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Keys of one provider.
pub const KEYS_MAX: usize = 64;
/// Providers of one configuration.
pub const PROVIDERS_MAX: usize = 256;
/// Routes of one configuration.
pub const ROUTES_MAX: usize = 4096;
/// Model names or patterns of one route, one provider's list or one key's allow-list.
pub const MODELS_MAX: usize = 4096;
/// Extra header fields of one provider.
pub const PROVIDER_HEADERS_MAX: usize = 32;
/// Input tokens of one image, at most, where its provider counts them by its size (Anthropic, and models on Bedrock).
pub const IMAGE_TOKENS_MAX: u64 = 6_500;
/// Bytes that a second of sound takes at least: 1 kbit/s, which is less than speech can be coded with.
pub const SOUND_SECOND_BYTES_MIN: u64 = 125;
/// Budgets that one request is charged to, over all levels.
pub const BUDGETS_PER_REQUEST_MAX: usize = 16;
/// Rate limits that one request is subject to, over all levels.
pub const LIMITS_PER_REQUEST_MAX: usize = 16;
/// Longest name or value of a tag, in bytes.
pub const TAG_BYTES_MAX: usize = 64;
/// Names and values of one request's tags together, with a byte behind each.
pub const TAGS_BYTES_MAX: usize = 192;
/// Names of tags that reports tell apart.
pub const TAG_NAMES_MAX: usize = 64;
/// Values of one tag that reports tell apart.
pub const TAG_VALUES_MAX: usize = 1024;
/// Longest name of a provider or a key, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// Largest secret read from a variable or a file, in bytes.
pub const SECRET_BYTES_MAX: usize = 4096;
/// Longest session token of temporary AWS credentials, in bytes (typically below 4 KiB; AWS promises no bound).
pub const AWS_SESSION_TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Largest answer of a metadata service that the control thread reads, in bytes.
pub const METADATA_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Largest configuration file, in bytes.
pub const CONFIG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest nesting of lists and mappings in a configuration file.
pub const CONFIG_DEPTH_MAX: usize = 32;
/// Most mistakes of one configuration file that are reported.
pub const CONFIG_MISTAKES_MAX: usize = 100;
/// Client connections of one core, default (`limits.connections`).
pub const CONNECTIONS_DEFAULT: u32 = 16_384;
/// Bytes of request bodies that one core holds at a time, default (`limits.in_flight_body_bytes`).
pub const IN_FLIGHT_BODY_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
/// Idle keep-alive connections that a core keeps per origin, default (`upstream.idle_connections`).
pub const IDLE_CONNECTIONS_DEFAULT: u32 = 1024;
/// Longest text that is matched by meaning, in bytes; a longer one is matched exactly or not at all.
pub const CACHE_TEXT_BYTES_MAX: usize = 16 * 1024;
/// Entries of one bucket that are compared one by one; beyond, the bucket gets a graph.
pub const CACHE_SCAN_ENTRIES_MAX: usize = 131_072;
/// Requests of one core that are recognised byte for byte.
pub const CACHE_VERBATIM_SLOTS: usize = 1024;
/// Largest body of them, in bytes.
pub const CACHE_VERBATIM_BYTES_MAX: usize = 8 * 1024;
/// Nearest entries of a bucket that the pair guard looks at.
pub const CACHE_CANDIDATES: usize = 4;
/// Entries of one core's cache, the most that may be configured.
pub const CACHE_ENTRIES_MAX: usize = 1 << 20;
/// Entries of one core's cache, default (`cache.entries`).
pub const CACHE_ENTRIES_DEFAULT: u32 = 100_000;
/// Bytes of one core's cache, default (`cache.memory`).
pub const CACHE_BYTES_DEFAULT: u64 = 512 * 1024 * 1024;
/// Entries of each ring that carries cached answers between a core and the control thread.
pub const CACHE_RING_ENTRIES: usize = 1024;
/// Answers and orders of the cache that a core takes over in one tick.
pub const CACHE_NEWS_PER_TICK: usize = 64;
/// Entries that a core looks at in one tick for whether they have expired.
pub const CACHE_SWEEP_PER_TICK: usize = 64;
/// Largest snapshot of the cache that is read, in bytes.
pub const CACHE_SNAPSHOT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Longest value of a context key, in bytes; a request with a longer one is not cached.
pub const CACHE_CONTEXT_BYTES_MAX: usize = 1024;
/// Largest answer that is kept, in bytes.
pub const CACHE_ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Requests in flight that others may wait for, of one core.
pub const CACHE_FLIGHTS_MAX: usize = 4096;
/// Requests that wait for one provider call.
pub const CACHE_WAITERS_MAX: u32 = 1024;
/// Pairs of templates that evidence is kept for, of one core.
pub const CACHE_TEMPLATE_PAIRS_MAX: usize = 65_536;
/// Namespaces that audits are counted for, of one core.
pub const CACHE_NAMESPACES_MAX: usize = 4096;
/// Epochs that are kept: one a tenant, one a value of a tenant's context.
pub const CACHE_EPOCHS_MAX: usize = 65_536;
/// Tags of one cached answer.
pub const CACHE_TAGS_MAX: usize = 16;
/// Blocks of 8 by 8 pixels of one camera frame (8 megapixels).
pub const CACHE_FRAME_BLOCKS_MAX: usize = 131_072;
/// Pixels of one camera frame that is decoded (8 megapixels).
pub const CACHE_FRAME_PIXELS_MAX: usize = CACHE_FRAME_BLOCKS_MAX * 64;
/// Camera frames of one request; one with more is not matched by its frames.
pub const CACHE_FRAMES_PER_REQUEST_MAX: usize = 8;
/// Requests whose frames are decoded at a time; what comes on top is not matched by its frames.
pub const CACHE_DECODERS: usize = 2;
/// Texts that an embedding service is asked for at a time; what comes on top is matched exactly.
pub const CACHE_EMBEDDINGS_MAX: usize = 64;
/// Largest answer of an embedding service, in bytes.
pub const CACHE_EMBEDDING_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Jobs that wait for the control thread to give them to somebody.
pub const CACHE_JOBS_MAX: usize = 256;
/// Frames that a new one is compared with, of one key.
pub const CACHE_FRAMES_PER_KEY_MAX: usize = 64;
/// Requests that one core has at a provider at a time, where that is limited and no number is given.
pub const CONCURRENCY_DEFAULT: u32 = 1024;
/// Requests that wait for a place at such a provider, on each core.
pub const QUEUE_DEFAULT: u32 = 256;
/// Entries of each ring between a core and the control thread.
pub const RING_ENTRIES: usize = 4096;
/// Combinations of names of which records of one core tell by a number alone.
pub const NAMES_SLOTS: usize = 64;
/// Bytes of a model's name that are logged: the name of a Bedrock inference profile (an ARN), with its provider's, fits.
pub const MODEL_LABEL_BYTES: usize = 120;
/// Attempts of one request that its record tells apart; more than a plan has targets, with a retry of each.
pub const TRIES_MAX: usize = 24;
/// Bytes of bodies that wait for the log, of each core.
pub const LOG_BODIES_QUEUED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most bytes of one body that are logged (`log.bodies.size`).
pub const LOG_BODY_BYTES_MAX: u64 = 1024 * 1024;
/// Depth of documents that are logged.
pub const REDACT_DEPTH_MAX: usize = 64;

/// Targets (a model at a provider, for one kind of request) that a core counts apart; what is beyond is counted as `other`.
pub const SERIES_TARGETS_MAX: usize = 512;
/// Pairs of targets and reasons for which a core counts fallbacks apart.
pub const SERIES_FALLBACKS_MAX: usize = 1024;
/// Virtual keys that a core counts apart.
pub const SERIES_CALLERS_MAX: usize = 65_536;
/// Rows that are allocated at once.
pub const BOARD_CHUNK: usize = 256;
/// Labels whose place a core remembers.
pub const BOARD_PLACES: usize = 131_072;
/// Virtual keys and budgets that one scrape shows: those with most traffic, and those nearest their end.
pub const METRICS_TOP: usize = 50;
/// Targets with histograms of their own that one scrape shows.
pub const METRICS_TARGETS: usize = 92;

const _: () = {
    assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
    assert!(HEAD_BYTES_MAX <= RECV_LARGE_BYTES, "a head must fit one large buffer");
    assert!(RECV_SMALL_BYTES < RECV_LARGE_BYTES);
    assert!(HEAD_BYTES_MAX < u16::MAX as usize, "head spans are 16 bits wide");
    assert!(BODY_BYTES_DEFAULT <= BODY_BYTES_MAX);
    assert!(EVENTSTREAM_HEADERS_BYTES_MAX < EVENTSTREAM_MESSAGE_BYTES_MAX);
    assert!(
        EVENTSTREAM_MESSAGE_BYTES_MAX <= u32::MAX as usize,
        "message lengths are 32 bits wide"
    );
    assert!(SIGV4_KEYS_CACHED.is_power_of_two(), "the cache is indexed by a mask");
    assert!(
        AWS_SESSION_TOKEN_BYTES_MAX < HEAD_BYTES_MAX,
        "a signed request must have room for its token"
    );
    assert!(AWS_SESSION_TOKEN_BYTES_MAX < METADATA_ANSWER_BYTES_MAX);
    assert!(CACHE_CANDIDATES < CACHE_SCAN_ENTRIES_MAX && CACHE_SCAN_ENTRIES_MAX < CACHE_ENTRIES_MAX);
    assert!(CACHE_ENTRIES_MAX < u32::MAX as usize, "entry ids are 32 bits wide");
    assert!(CACHE_ANSWER_BYTES_MAX <= TRANSLATED_BODY_BYTES_MAX);
    assert!(PROXY_V2_BYTES_MAX < RECV_LARGE_BYTES);
    assert!(SEND_PARTS_MAX <= 1024, "IOV_MAX");
    assert!(BODY_BYTES_DEFAULT <= IN_FLIGHT_BODY_BYTES_DEFAULT);
    assert!(PROVIDERS_MAX < u16::MAX as usize, "provider ids are 16 bits wide");
    assert!(ROUTES_MAX < u16::MAX as usize, "route ids are 16 bits wide");
    assert!(
        PROVIDERS_MAX * KEYS_MAX < u16::MAX as usize,
        "key and origin ids are 16 bits wide"
    );
    assert!(TARGETS_MAX <= 16, "a plan numbers each kind of target in 4 bits");
    assert!(
        HEALTH_TARGETS.is_power_of_two(),
        "slots are found by the low bits of a hash"
    );
    assert!(NAME_BYTES_MAX < MODEL_BYTES_MAX);
    assert!(
        NOTES_MAX * (NOTE_BYTES_MAX + 12) < HEAD_BYTES_MAX / 4,
        "a warning header must leave room in a head"
    );
    assert!(
        SERIES_CALLERS_MAX < BOARD_PLACES && METRICS_TOP < SERIES_CALLERS_MAX && METRICS_TARGETS < SERIES_TARGETS_MAX,
        "what is counted apart can be found, and more is counted than shown"
    );
    assert!(TAGS_BYTES_MAX <= u8::MAX as usize, "the length of tags is 8 bits wide");
    assert!(KEYS_MAX <= 64, "tried keys are a 64-bit mask");
};
