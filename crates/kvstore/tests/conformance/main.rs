//! What clients of etcd rely on, held against ours, in memory and durable, and against a real etcd: a
//! case that fails on etcd is a wrong case. The property test then lets both answer the same random
//! requests.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/requests.rs"]
mod requests;

mod auth;
mod client;
mod etcdctl;
mod kv;
mod lease;
mod maintenance;
mod property;
mod watch;

use causeway_kvstore::pb::{self, request_op::Request as Op};
use causeway_kvstore::prefix_end;

/// Makes three tests of each case, one a target.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {$(
        mod $case {
            #[tokio::test]
            async fn ours() {
                super::cases::$case($crate::common::Target::ours().await).await;
            }
            #[tokio::test]
            async fn durable() {
                super::cases::$case($crate::common::Target::durable().await).await;
            }
            #[tokio::test]
            async fn etcd() {
                super::cases::$case($crate::common::Target::etcd().await).await;
            }
        }
    )+};
}
pub(crate) use conformance;

/// A refusal as a client sees it.
fn refusal(status: tonic::Status) -> (tonic::Code, String) {
    (status.code(), status.message().to_owned())
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn prefix(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { range_end: prefix_end(key.as_bytes()), ..get(key) }
}

fn delete(key: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
