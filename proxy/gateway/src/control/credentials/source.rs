//! Which place grants credentials, by the variables that AWS's own SDKs read, and how each is asked.
//!
//! Invariants: the first place that the variables name is the only one asked; a fixed access key never expires.
//! Deliberately absent: when to ask.

use std::net::IpAddr;
use std::path::PathBuf;

use sluice_policy::config::url::BaseUrl;

use super::metadata::{self, Request};
use crate::signing::AwsCredentials;

/// Where ECS serves the credentials of a task.
const ECS: &str = "http://169.254.170.2";
/// Hosts beside this machine that a container's full address may have: ECS and EKS.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
/// Where EC2 serves instance metadata.
const EC2: &str = "http://169.254.169.254";
/// Lifetime of a session of IMDSv2, in seconds; one lasts for one fetch.
const SESSION_S: &str = "60";
const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// A place that grants credentials.
pub(super) enum Source {
    /// Named in full by variables.
    Variables(AwsCredentials),
    /// The agent beside a container.
    Container { url: BaseUrl, token: Option<Token> },
    /// The metadata service of an EC2 instance.
    Ec2(BaseUrl),
    /// The variables contradict themselves or forbid it.
    Unusable(String),
}

/// What a container shows the agent; a file is read anew each time, since it is replaced while the container runs.
pub(super) enum Token {
    Text(String),
    File(PathBuf),
}

impl Source {
    /// Chooses by variables, in the order of AWS's SDKs.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        if let (Some(id), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            let token = variable("AWS_SESSION_TOKEN");
            return metadata::credentials(&id, &secret, token.as_deref(), None)
                .map_or_else(|reason| Self::Unusable(reason.into()), Self::Variables);
        }
        let container = match (
            variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
            variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"),
        ) {
            (Some(path), _) => Some(format!("{ECS}{path}")),
            (None, full) => full,
        };
        if let Some(text) = container {
            let token = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
                .map(|path| Token::File(path.into()))
                .or_else(|| variable("AWS_CONTAINER_AUTHORIZATION_TOKEN").map(Token::Text));
            return match parse(&text, "the container's credentials") {
                Ok(url) if is_container_host(&url.host) => Self::Container { url, token },
                Ok(url) => Self::Unusable(format!(
                    "{} is no address of this machine, of ECS or of EKS: it is not asked for credentials",
                    url.host
                )),
                Err(reason) => Self::Unusable(reason),
            };
        }
        if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Self::Unusable("AWS_EC2_METADATA_DISABLED forbids it, and nothing else grants any".into());
        }
        let text = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| EC2.into());
        parse(&text, "AWS_EC2_METADATA_SERVICE_ENDPOINT").map_or_else(Self::Unusable, Self::Ec2)
    }

    /// For logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Variables(_) => "variables",
            Self::Container { .. } => "container",
            Self::Ec2(_) => "EC2 instance",
            Self::Unusable(_) => "none",
        }
    }

    /// Asks once.
    ///
    /// # Errors
    /// Why there are none, without any secret.
    pub async fn fetch(&self) -> Result<AwsCredentials, String> {
        match self {
            Self::Variables(credentials) => Ok(credentials.clone()),
            Self::Container { url, token } => {
                let token = match token {
                    Some(Token::Text(text)) => Some(text.clone()),
                    Some(Token::File(path)) => Some(
                        tokio::fs::read_to_string(path)
                            .await
                            .map_err(|error| format!("{}: {error}", path.display()))?,
                    ),
                    None => None,
                };
                let header = token.as_deref().map(|token| ("authorization", token.trim()));
                let body = metadata::ask(url, &Request::get("", header)).await?;
                metadata::parse(&body)
            }
            Self::Ec2(url) => {
                let session = Request {
                    method: "PUT",
                    path: "/latest/api/token",
                    header: Some(("x-aws-ec2-metadata-token-ttl-seconds", SESSION_S)),
                };
                let session = text(metadata::ask(url, &session).await?)?;
                let header = Some(("x-aws-ec2-metadata-token", session.trim()));
                let roles = text(metadata::ask(url, &Request::get(ROLES_PATH, header)).await?)?;
                let role = roles.lines().next().unwrap_or_default().trim();
                if role.is_empty() {
                    return Err("the instance has no role".into());
                }
                let path = format!("{ROLES_PATH}{role}");
                metadata::parse(&metadata::ask(url, &Request::get(&path, header)).await?)
            }
            Self::Unusable(reason) => Err(reason.clone()),
        }
    }
}

fn parse(text: &str, what: &str) -> Result<BaseUrl, String> {
    let url: BaseUrl = text.parse().map_err(|reason| format!("{what}: {text}: {reason}"))?;
    if url.tls {
        return Err(format!("{what}: {text}: only http:// is spoken here"));
    }
    Ok(url)
}

fn is_container_host(host: &str) -> bool {
    let loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback || host == "localhost" || CONTAINER_HOSTS.contains(&host)
}

fn text(body: Vec<u8>) -> Result<String, String> {
    String::from_utf8(body).map_err(|_| "the metadata service's answer is not text".into())
}
