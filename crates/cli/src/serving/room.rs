//! Room in a full store.
//!
//! An etcd that has been full stays closed until an administrator compacts and disarms it. Nobody can administer
//! this store from outside, so what that person would do is done here.

use std::time::Duration;

use causeway_kvstore::Store;
use tokio_util::sync::CancellationToken;

/// How often the store is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Opens the store again whenever it was full and is no more, until cancelled.
pub(super) async fn keep(store: Store, shutdown: CancellationToken) {
    let mut told = false;
    while shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
        if !store.space_alarm() {
            told = false;
            continue;
        }
        let opened = make(&store).await;
        if opened {
            tracing::warn!("the store was full: its history is dropped, and it takes writes again");
        } else if !std::mem::replace(&mut told, true) {
            tracing::error!(
                bytes = store.live_bytes(),
                "the store takes no writes: it is full (raise quota-backend-bytes), or data-dir cannot be written"
            );
        }
    }
}

/// Drops the history of a full store and opens it if a tenth of it is free then; whether it is open.
async fn make(store: &Store) -> bool {
    // Whoever has compacted just now has done this already.
    let _ = store.staged().compact(store.revision()).done().await;
    let stats = store.stats();
    let free = stats.quota_bytes.is_none_or(|quota| stats.total_bytes < quota / 10 * 9);
    free && store.staged().set_space_alarm(false).done().await.is_ok() && !store.space_alarm()
}

#[cfg(test)]
mod tests {
    use causeway_kvstore::{Error, StoreOptions, pb};

    use super::*;

    fn put(store: &Store, key: &str) -> Result<(), Error> {
        let value = "x".repeat(1000).into();
        store.put(pb::PutRequest { key: key.to_owned().into(), value, ..Default::default() }).map(drop)
    }

    #[tokio::test]
    async fn a_store_full_of_history_is_opened_again() {
        let store = Store::new(StoreOptions { quota_backend_bytes: 100_000, ..Default::default() });
        while put(&store, "one").is_ok() {}
        assert!(store.space_alarm());
        assert!(make(&store).await);
        assert_eq!(put(&store, "one"), Ok(()));
    }

    #[tokio::test]
    async fn one_full_of_keys_is_not() {
        let store = Store::new(StoreOptions { quota_backend_bytes: 100_000, ..Default::default() });
        // Its history is dropped again and again, until there is none.
        let mut keys = 0;
        while put(&store, &keys.to_string()).is_ok() || make(&store).await {
            keys += 1;
        }
        assert_eq!(put(&store, "more"), Err(Error::NoSpace));
        let half = pb::DeleteRangeRequest { key: "0".into(), range_end: "5".into(), ..Default::default() };
        assert!(store.delete_range(&half).unwrap().deleted > keys / 3);
        assert!(make(&store).await, "half of them are gone");
        assert_eq!(put(&store, "more"), Ok(()));
    }
}
