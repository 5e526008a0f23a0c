//! The configurations of a run, written into its temporary directory: the gateway's, nginx's and HAProxy's.
//!
//! nginx and HAProxy are set up as the fastest plain reverse proxies they can be: one worker, keep-alive to the
//! upstream, nothing buffered to disk, no access log, no delay of small segments. The gateway's has everything on. All three may keep
//! 2,048 upstream connections, so that none opens new ones under a thousand clients.

use std::net::SocketAddr;
use std::path::Path;

/// The gateway's configuration: one provider at `base_url`, request log to `log`, own CA when TLS is spoken.
#[must_use]
pub fn gateway(base_url: &str, log: &Path, ca: Option<&Path>) -> String {
    let tls = ca
        .map(|ca| format!("\n    tls:\n      ca_file: {}", ca.display()))
        .unwrap_or_default();
    format!(
        "providers:\n  openai:\n    base_url: {base_url}{tls}\n    keys:\n      - env: OPENAI_KEY_PRIMARY\n\
         upstream:\n  idle_connections: 2048\nlog:\n  requests:\n    output: {}\n",
        log.display()
    )
}

/// nginx as a reverse proxy; `directory` takes its pid file and temporary paths.
#[must_use]
pub fn nginx(listen: SocketAddr, upstream: SocketAddr, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {directory}/nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 8192; }}\n\
         http {{\n\
         \x20 access_log off;\n  tcp_nodelay on;\n  keepalive_timeout 600s;\n  keepalive_requests 1000000000;\n\
         \x20 client_max_body_size 64m;\n  client_body_buffer_size 64k;\n\
         \x20 client_body_temp_path {directory}/body;\n  proxy_temp_path {directory}/proxy;\n\
         \x20 fastcgi_temp_path {directory}/fastcgi;\n  uwsgi_temp_path {directory}/uwsgi;\n  scgi_temp_path {directory}/scgi;\n\
         \x20 upstream sim {{ server {upstream}; keepalive 2048; keepalive_requests 1000000000; keepalive_timeout 600s; }}\n\
         \x20 server {{\n    listen {listen} backlog=4096;\n\
         \x20   location / {{\n      proxy_pass http://sim;\n      proxy_http_version 1.1;\n\
         \x20     proxy_set_header Connection \"\";\n      proxy_buffering off;\n      proxy_request_buffering off;\n\
         \x20   }}\n  }}\n}}\n"
    )
}

/// HAProxy as a reverse proxy.
#[must_use]
pub fn haproxy(listen: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n\
         defaults\n  mode http\n  option http-keep-alive\n  option http-no-delay\n  http-reuse always\n\
         \x20 timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n  timeout http-keep-alive 600s\n\
         frontend in\n  bind {listen} backlog 4096\n  default_backend sim\n\
         backend sim\n  server sim {upstream} pool-max-conn -1 pool-purge-delay 600s\n"
    )
}
