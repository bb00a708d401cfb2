//! A cluster of several endpoints: calls go to one that answers.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::endpoints::Endpoints;
use super::{Client, ClientConfig, ClientError, connect};

/// An etcd cluster. Connects when it is first needed, stays with an endpoint while that answers, and
/// goes on to the next one when it does not; one that failed is left alone for a while that grows
/// with its failures. Members that have lost their leader refuse its calls and end its watches at
/// once, so that it finds those that have one. Cheap to clone; the clones share all of it.
#[derive(Debug, Clone)]
pub struct Balancer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: ClientConfig,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    endpoints: Endpoints,
    /// The endpoint in use, or to be tried first.
    at: usize,
    client: Option<Client>,
}

impl Balancer {
    /// A cluster at these endpoints; nothing is connected yet. Which one is first is a matter of
    /// chance, so that many clients spread over them.
    pub fn new(config: ClientConfig) -> Self {
        let endpoints = Endpoints::new(config.endpoints.len());
        let at = rand::random_range(0..endpoints.len().max(1));
        Self(Arc::new(Shared { config, state: Mutex::new(State { endpoints, at, client: None }) }))
    }

    /// The URLs of the cluster.
    pub fn endpoints(&self) -> &[String] {
        &self.0.config.endpoints
    }

    /// Makes a call, at most once at each endpoint; waits where all of them have just failed. A call
    /// without an answer may have been carried out all the same: it must be one that can be repeated.
    ///
    /// # Errors
    /// [`ClientError`]: what the server refused, or the failure of the last endpoint tried.
    pub async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut last = ClientError::NoEndpoint;
        for _ in self.endpoints() {
            let failed = match self.client().await {
                Ok(client) => match call(client.clone()).await {
                    Err(error) if error.is_of_endpoint() => {
                        self.failed(&client).await;
                        error
                    }
                    answer => {
                        self.worked(&client).await;
                        return answer;
                    }
                },
                Err(error) => error,
            };
            tracing::debug!(error = %failed, "trying another endpoint");
            last = failed;
        }
        Err(last)
    }

    /// The connection in use, or a new one to the next endpoint; one attempt.
    ///
    /// # Errors
    /// [`ClientError`] of that attempt.
    pub async fn client(&self) -> Result<Client, ClientError> {
        // Held while connecting: whoever else wants a connection wants the same one.
        let mut state = self.0.state.lock().await;
        if let Some(client) = &state.client {
            return Ok(client.clone());
        }
        let n = loop {
            match state.endpoints.pick(Instant::now(), state.at) {
                None => return Err(ClientError::NoEndpoint),
                Some(Ok(n)) => break n,
                Some(Err(until)) => tokio::time::sleep_until(until.into()).await,
            }
        };
        state.at = n;
        match connect::one(&self.0.config, &self.0.config.endpoints[n]).await {
            Ok(channel) => {
                let endpoint = self.0.config.endpoints[n].clone();
                let client = Client::over(endpoint, channel, self.0.config.timeout, true);
                Ok(state.client.insert(client).clone())
            }
            Err(error) => {
                state.endpoints.failed(n, Instant::now(), rand::random());
                Err(error)
            }
        }
    }

    /// Tells that a connection got from here no longer answers, or not well.
    pub async fn failed(&self, client: &Client) {
        let mut state = self.0.state.lock().await;
        if state.client.as_ref().is_some_and(|current| current.is(client)) {
            state.client = None;
            let n = state.at;
            state.endpoints.failed(n, Instant::now(), rand::random());
        }
    }

    /// Tells that it does.
    pub async fn worked(&self, client: &Client) {
        let mut state = self.0.state.lock().await;
        if state.client.as_ref().is_some_and(|current| current.is(client)) {
            let n = state.at;
            state.endpoints.worked(n);
        }
    }
}
