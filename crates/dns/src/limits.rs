//! How much may be under way at once: in all, and for one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Places for work. One client cannot take them all.
#[derive(Debug)]
pub(crate) struct Places {
    total: usize,
    per_client: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_client: HashMap<IpAddr, usize>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    pub(crate) fn new(total: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self { total, per_client, held: Mutex::default() })
    }

    /// A place for a client, if there is one for it.
    pub(crate) fn take(self: &Arc<Self>, client: IpAddr) -> Option<Place> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.all >= self.total || held.by_client.get(&client).is_some_and(|n| *n >= self.per_client) {
            return None;
        }
        held.all += 1;
        *held.by_client.entry(client).or_default() += 1;
        Some(Place { places: self.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.all -= 1;
        if let Some(count) = held.by_client.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                held.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_all_places() {
        let places = Places::new(3, 2);
        let [a, b] = [1, 2].map(|n| IpAddr::from([10, 0, 0, n]));
        let first = (places.take(a), places.take(a));
        assert!(first.0.is_some() && first.1.is_some() && places.take(a).is_none());
        let second = places.take(b);
        assert!(second.is_some() && places.take(b).is_none(), "none is left");
        drop(first);
        assert!(places.take(a).is_some());
        drop(second);
        let held = places.held.lock().unwrap();
        assert!(held.all == 0 && held.by_client.is_empty());
    }
}
