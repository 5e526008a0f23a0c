//! Against a metadata service of our own on loopback.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

type Answers = Arc<Mutex<HashMap<&'static str, (u16, String)>>>;

/// Answers `METHOD PATH` by the table, 401 to a GET of metadata without the session's token and 404 to all else; keeps the
/// heads that it was sent.
struct Service {
    url: String,
    answers: Answers,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (answers, heads) = (Answers::default(), Arc::<Mutex<Vec<String>>>::default());
        let (table, seen) = (answers.clone(), heads.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { break };
                    head.push(byte);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let line = head.split(" http/1.1").next().unwrap_or_default().to_owned();
                let metadata = line.contains("/latest/meta-data/");
                let (status, body) = match table.lock().unwrap().get(&*line) {
                    _ if metadata && !head.contains("x-aws-ec2-metadata-token: session-1\r\n") => (401, String::new()),
                    Some(answer) => answer.clone(),
                    None => (404, String::new()),
                };
                seen.lock().unwrap().push(head);
                let length = body.len();
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { url, answers, heads }
    }

    fn answer(&self, request: &'static str, status: u16, body: impl Into<String>) {
        self.answers.lock().unwrap().insert(request, (status, body.into()));
    }

    fn ec2(&self) -> Source {
        self.answer("put /latest/api/token", 200, "session-1");
        self.answer("get /latest/meta-data/iam/security-credentials/", 200, "Gateway\n");
        source(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &self.url)])
    }
}

const ROLE: &str = "get /latest/meta-data/iam/security-credentials/gateway";

fn source(variables: &[(&str, &str)]) -> Source {
    Source::from_environment(|name| {
        let found = variables.iter().find(|(candidate, _)| *candidate == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

fn json(id: &str, expiration: &str) -> String {
    format!(
        r#"{{"Code":"Success","LastUpdated":"2026-03-04T05:06:07Z","Type":"AWS-HMAC","AccessKeyId":"{id}",
            "SecretAccessKey":"hush/secret","Token":"hush-token","Expiration":"{expiration}"}}"#
    )
}

async fn latest_id(receiver: &mut watch::Receiver<Option<Arc<AwsCredentials>>>) -> Option<String> {
    receiver.changed().await.unwrap();
    let latest = receiver.borrow_and_update().clone();
    latest.map(|credentials| credentials.access_key_id.to_string())
}

#[tokio::test]
async fn an_instances_role_is_asked_for_with_a_session_token() {
    let service = Service::start().await;
    let source = service.ec2();
    service.answer(ROLE, 200, json("ASIA1", "2036-03-04T05:06:07Z"));
    let credentials = source.fetch().await.unwrap();
    assert_eq!(&*credentials.access_key_id, "ASIA1");
    assert_eq!(&*credentials.secret_access_key, "hush/secret");
    assert_eq!(credentials.session_token.as_deref(), Some("hush-token"));
    assert_eq!(credentials.expires_unix_s, Some(2_088_219_967));
    let heads = service.heads.lock().unwrap();
    assert_eq!(heads.len(), 3);
    assert!(
        heads[0].contains("x-aws-ec2-metadata-token-ttl-seconds: 60\r\n"),
        "{heads:?}"
    );
}

#[tokio::test]
async fn a_containers_role_is_asked_for_with_its_authorization() {
    let service = Service::start().await;
    service.answer("get /v2/credentials/x", 200, json("ASIA2", "2036-03-04T05:06:07Z"));
    let url = format!("{}/v2/credentials/x", service.url);
    let full = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*url);
    let source = source(&[full, ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Pod-1")]);
    assert_eq!(&*source.fetch().await.unwrap().access_key_id, "ASIA2");
    assert!(service.heads.lock().unwrap()[0].contains("authorization: pod-1\r\n"));
}

#[tokio::test]
async fn variables_come_first_and_a_foreign_address_is_never_asked() {
    let fixed = source(&[
        ("AWS_ACCESS_KEY_ID", "AKIA1"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x"),
    ]);
    assert_eq!(fixed.fetch().await.unwrap().expires_unix_s, None);
    for refused in [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/x"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "https://127.0.0.1/x"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ] {
        assert!(matches!(source(&[refused]), Source::Unusable(_)), "{refused:?}");
    }
    assert!(matches!(
        source(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/x")]),
        Source::Container { .. }
    ));
    assert!(matches!(source(&[]), Source::Ec2(_)));
}

#[tokio::test]
async fn what_is_no_credentials_is_refused_without_repeating_a_secret() {
    let service = Service::start().await;
    let source = service.ec2();
    let cases = [
        (200, json("ASIA3", "tomorrow hush"), "not a date"),
        (200, json("ASIA\\r\\nx", "2036-03-04T05:06:07Z"), "access key id"),
        (
            200,
            r#"{"Code":"AssumeRoleUnauthorizedAccess"}"#.into(),
            "AssumeRoleUnauthorizedAccess",
        ),
        (200, "hush".into(), "holds no credentials"),
        (
            200,
            " ".repeat(sluice_wire::limits::METADATA_ANSWER_BYTES_MAX + 1),
            "limit",
        ),
        (500, "hush".into(), "500"),
    ];
    for (status, body, expected) in cases {
        service.answer(ROLE, status, body);
        let reason = source.fetch().await.unwrap_err();
        assert!(reason.contains(expected) && !reason.contains("hush"), "{reason}");
    }
    service.answer("get /latest/meta-data/iam/security-credentials/", 200, "");
    assert_eq!(source.fetch().await.unwrap_err(), "the instance has no role");
}

#[tokio::test]
async fn a_service_that_fails_is_asked_again_and_old_credentials_serve_until_they_expire() {
    let service = Service::start().await;
    let source = service.ec2();
    let (sender, mut receiver) = watch::channel(None);
    service.answer(ROLE, 500, "");
    let soon = now_unix_s() + 3;
    tokio::spawn(keep(source, sender));
    while service.heads.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    // The second attempt, one to two seconds later, gets credentials that last three; then the service fails again.
    service.answer(ROLE, 200, json("ASIA4", &rfc3339(soon)));
    assert_eq!(latest_id(&mut receiver).await.as_deref(), Some("ASIA4"));
    service.answer(ROLE, 500, "");
    assert_eq!(latest_id(&mut receiver).await, None);
    assert!(now_unix_s() >= soon);
}

/// The inverse of [`metadata::unix_s`], by search over days.
fn rfc3339(unix_s: u64) -> String {
    let day = unix_s / 86_400;
    for year in 2020..2200 {
        for month in 1..=12 {
            for of_month in 1..=31 {
                let date = format!("{year}-{month:02}-{of_month:02}");
                if metadata::unix_s(&format!("{date}T00:00:00Z")) == Some(day * 86_400) {
                    let rest = unix_s % 86_400;
                    return format!("{date}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
                }
            }
        }
    }
    panic!("a day between 2020 and 2200");
}

#[test]
fn credentials_that_have_expired_already_are_a_failure() {
    let until = |expires_unix_s| unexpired(metadata::credentials("ASIA5", "s", None, expires_unix_s).unwrap());
    assert!(until(None).is_ok() && until(Some(now_unix_s() + 60)).is_ok());
    assert!(until(Some(now_unix_s())).is_err());
}

#[test]
fn credentials_are_renewed_five_minutes_before_they_expire_and_never_in_a_tight_loop() {
    let after = |expires: u64| renew_after(expires, 1_000_000, Duration::from_secs(30)).as_secs();
    assert_eq!(after(1_003_600), 3600 - 300 - 30);
    assert_eq!(after(1_000_200), RENEW_MIN.as_secs());
    assert_eq!(after(0), RENEW_MIN.as_secs());
}

#[test]
fn dates_are_those_of_the_calendar() {
    for (text, unix_s) in [
        ("1970-01-01T00:00:00Z", Some(0)),
        ("2000-02-29T23:59:59Z", Some(951_868_799)),
        ("2026-03-04T05:06:07.250Z", Some(1_772_600_767)),
        ("2026-03-04T05:06:07", None),
        ("2026-13-04T05:06:07Z", None),
        ("1969-12-31T23:59:59Z", None),
        ("2026-03-04T05:06:+7Z", None),
    ] {
        assert_eq!(metadata::unix_s(text), unix_s, "{text}");
    }
}
