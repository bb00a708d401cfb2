//! Who asks: a client certificate (CN is the user, O the groups) or a bearer token.

use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Api;
use super::error::{ApiError, ApiResult};

/// An authenticated user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// `system:admin` and the like.
    pub name: String,
    /// Groups, `system:authenticated` among them.
    pub groups: Vec<String>,
    /// Uid of a service account.
    pub uid: String,
}

impl User {
    /// A user with these groups and `system:authenticated`.
    pub fn new(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        groups.push("system:authenticated".into());
        User { name: name.into(), groups, uid: String::new() }
    }

    /// `UserInfo` of reviews.
    pub fn info(&self) -> Value {
        let mut v = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            v["uid"] = self.uid.as_str().into();
        }
        v
    }
}

/// The user of a client certificate that the TLS layer has verified.
pub fn from_certificate(der: &[u8]) -> Option<User> {
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(String::from).collect();
    (!name.is_empty()).then(|| User::new(&name, &groups))
}

/// The user of a request: its token if it has one, else the connection's certificate.
///
/// # Errors
/// 401 for a token that is not accepted.
pub fn authenticate(
    api: &Api,
    headers: &http::HeaderMap,
    certificate: Option<&User>,
) -> ApiResult<Option<User>> {
    let header = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    match header.and_then(|h| h.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            api.authenticate_token(token.trim()).map(Some).ok_or_else(ApiError::unauthorized)
        }
        _ => Ok(certificate.cloned()),
    }
}
