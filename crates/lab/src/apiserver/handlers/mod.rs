//! From a request to an answer.

pub mod body;
pub mod delete;
pub mod log;
pub mod patch;
pub mod read;
pub mod review;
pub mod subresource;
pub mod watch;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::authn::User;
use super::error::{ApiError, ApiResult};
use super::negotiate::Form;
use super::request::{Query, Route, Target, route};
use super::resources::Resource;
use super::{Api, discovery, openapi};

/// Body of every answer.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The largest request body, as Kubernetes': 3 MiB.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// A request after routing, authentication and reading of its body.
pub struct Call {
    /// What it is about.
    pub target: Target,
    /// The row of its resource.
    pub res: Arc<Resource>,
    /// Query parameters.
    pub query: Query,
    /// Method.
    pub method: Method,
    /// Header `content-type`, without parameters.
    pub content_type: String,
    /// Header `accept`.
    pub accept: String,
    /// Header `user-agent`.
    pub user_agent: String,
    /// The body.
    pub body: Bytes,
    /// Who asks.
    pub user: User,
}

impl Call {
    /// Form of the answer.
    pub fn form(&self) -> Form {
        Form::of(&self.accept, self.query.get("includeObject"))
    }

    /// Namespace of the path, or "".
    pub fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or("")
    }

    /// Name of the path, or "".
    pub fn name(&self) -> &str {
        self.target.name.as_deref().unwrap_or("")
    }
}

/// A JSON answer.
pub fn json_response(code: u16, value: &Value) -> Response<Body> {
    bytes_response(code, "application/json", value.to_string().into())
}

/// An answer of bytes.
pub fn bytes_response(code: u16, content_type: &str, bytes: Bytes) -> Response<Body> {
    let body = Full::new(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Ok(value) = http::HeaderValue::from_str(content_type) {
        response.headers_mut().insert(http::header::CONTENT_TYPE, value);
    }
    response
        .headers_mut()
        .insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-cache, private"));
    response
}

/// Adds `Warning: 299` headers.
pub fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for w in warnings {
        let text = w.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = http::HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}

/// Answers a request of an authenticated user, or of nobody.
pub async fn handle(
    api: Arc<Api>,
    request: Request<Incoming>,
    user: ApiResult<Option<User>>,
) -> Response<Body> {
    let started = std::time::Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let response = answer(api, request, user).await.unwrap_or_else(|e| {
        if e.code >= 500 {
            tracing::warn!(%method, path, error = %e, "API request failed");
        }
        json_response(e.code, &e.to_status())
    });
    tracing::trace!(%method, path, code = response.status().as_u16(), elapsed = ?started.elapsed(), "API request");
    response
}

async fn answer(
    api: Arc<Api>,
    request: Request<Incoming>,
    user: ApiResult<Option<User>>,
) -> ApiResult<Response<Body>> {
    let path = request.uri().path().to_string();
    let routed = route(&path);
    if let Route::Other(p) = &routed {
        match p.trim_end_matches('/') {
            "/healthz" | "/readyz" | "/livez" => {
                return Ok(bytes_response(200, "text/plain", Bytes::from_static(b"ok")));
            }
            "/version" => return Ok(json_response(200, &discovery::version())),
            _ => {}
        }
    }
    let user = user?.ok_or_else(ApiError::unauthorized)?;
    let header =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("").to_string();
    let accept = header("accept");
    match routed {
        Route::Discovery(parts) if request.method() == Method::GET => {
            let (content_type, value) = discovery::answer(&api, &parts, &accept)?;
            Ok(bytes_response(200, &content_type, value.to_string().into()))
        }
        Route::Discovery(_) => Err(ApiError::method_not_allowed()),
        Route::Other(p) => openapi::answer(&api, &p, &accept),
        Route::Resource(target) => {
            let res = api
                .catalog
                .find(&target.group, &target.version, &target.plural)
                .ok_or_else(ApiError::no_such_path)?;
            if target.namespace.is_some() && !res.namespaced {
                return Err(ApiError::no_such_path());
            }
            let call = Call {
                query: Query::parse(request.uri().query().unwrap_or("")),
                method: request.method().clone(),
                content_type: header("content-type").split(';').next().unwrap_or("").trim().to_string(),
                user_agent: header("user-agent"),
                accept,
                body: Bytes::new(),
                target,
                res,
                user,
            };
            let body = http_body_util::Limited::new(request.into_body(), BODY_LIMIT);
            let body = body.collect().await.map_err(|e| {
                ApiError::new(413, "RequestEntityTooLarge", format!("limit is {BODY_LIMIT} bytes: {e}"))
            })?;
            dispatch(api, Call { body: body.to_bytes(), ..call }).await
        }
    }
}

async fn dispatch(api: Arc<Api>, call: Call) -> ApiResult<Response<Body>> {
    if call.res.create_only {
        return review::answer(&api, &call);
    }
    if let Some(sub) = call.target.sub.clone() {
        return subresource::answer(api, call, &sub).await;
    }
    let named = call.target.name.is_some();
    let watching = call.query.flag("watch") || call.query.has("watch") && call.query.get("watch") == "1";
    match (call.method.as_str(), named) {
        ("GET", false) if watching => watch::answer(api, call),
        ("GET", true) if watching => watch::answer(api, call),
        ("GET", false) => read::list(&api, &call),
        ("GET", true) => read::get(&api, &call),
        ("POST", false) => write::create(&api, &call),
        ("PUT", true) => write::update(&api, &call, super::ops::Part::Main),
        ("PATCH", true) => patch::answer(&api, &call, super::ops::Part::Main),
        ("DELETE", true) => delete::one(&api, &call),
        ("DELETE", false) => delete::collection(&api, &call),
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// `Status: Success`.
pub fn success(res: &Resource, object: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": object["metadata"]["name"], "group": res.group, "kind": res.plural,
            "uid": object["metadata"]["uid"],
        },
    })
}
