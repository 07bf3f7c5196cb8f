//! Who may have a connection: so many in all, so many for one client, and nobody keeps all of them.
//!
//! A client is an address, since that is all that the relay knows. While there is room, a client may have up to its own
//! bound. When every place is taken, a client that holds fewer places than another displaces a connection of the client
//! that holds most: first one that never got as far as a TLS session, then the one on which nothing has moved for the
//! longest time. So a stranger with one address, or with a few, cannot keep everybody else out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::connection::Carried;

/// Whom a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A program on this machine, over a Unix socket. The relay cannot tell one from another.
    Local,
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address: a subscriber usually has all addresses that begin with them.
    V6([u16; 4]),
}

impl Client {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// Every place is taken, and no client holds more than this one would.
    Full,
    /// The client has as many connections as one may.
    Client,
}

/// All places of a relay.
#[derive(Debug)]
pub(super) struct Places {
    total: usize,
    per_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, Connection>,
    /// How many places each client has. A client without any is not in it.
    counts: HashMap<Client, usize>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    carried: Arc<Carried>,
    displaced: CancellationToken,
}

/// A place of a connection. Dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    /// What the connection carries, by which it is compared with others.
    pub(super) carried: Arc<Carried>,
    /// Cancelled when another client takes the place. The connection ends then.
    pub(super) displaced: CancellationToken,
}

impl Places {
    pub(super) fn new(total: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self { total, per_client, taken: Mutex::default() })
    }

    /// A place for a new connection of `client`.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Result<Place, NoPlace> {
        let mut taken = self.lock();
        let held = taken.counts.get(&client).copied().unwrap_or(0);
        if client != Client::Local && held >= self.per_client {
            return Err(NoPlace::Client);
        }
        if taken.connections.len() >= self.total && !taken.displace_for(held) {
            return Err(NoPlace::Full);
        }
        let number = taken.next;
        taken.next += 1;
        let (carried, displaced) = (Arc::new(Carried::new()), CancellationToken::new());
        let connection = Connection { client, carried: Arc::clone(&carried), displaced: displaced.clone() };
        taken.connections.insert(number, connection);
        *taken.counts.entry(client).or_default() += 1;
        Ok(Place { places: Arc::clone(self), number, carried, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends a connection of the client that has most, if it has more than a newcomer with `held` places would have.
    fn displace_for(&mut self, held: usize) -> bool {
        let Some((greediest, most)) =
            self.counts.iter().max_by_key(|(_, count)| **count).map(|(client, count)| (*client, *count))
        else {
            return false;
        };
        if most <= held + 1 {
            return false;
        }
        let candidates = self.connections.iter().filter(|(_, connection)| connection.client == greediest);
        // `false` comes before `true`, and a smaller time is longer ago.
        let victim = candidates
            .min_by_key(|(number, connection)| {
                (connection.carried.is_open(), connection.carried.last_moved(), **number)
            })
            .map(|(number, _)| *number);
        let Some(connection) = victim.and_then(|number| self.give_back(number)) else { return false };
        connection.displaced.cancel();
        true
    }

    fn give_back(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(count) = self.counts.get_mut(&connection.client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&connection.client);
            }
        }
        Some(connection)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A connection that was displaced has given its place back already.
        let _ = self.places.lock().give_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    const ONE: Client = Client::V4([192, 0, 2, 1]);
    const TWO: Client = Client::V4([192, 0, 2, 2]);

    fn client(text: &str) -> Client {
        Client::new(Some(text.parse().unwrap()))
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        assert_eq!(client("::ffff:192.0.2.1"), ONE);
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(Client::new(None), Client::Local);
    }

    #[test]
    fn one_client_has_its_own_bound_and_programs_on_this_machine_have_none() {
        let places = Places::new(4, 2);
        let held = [places.take(ONE).unwrap(), places.take(ONE).unwrap()];
        assert_eq!(places.take(ONE).unwrap_err(), NoPlace::Client);
        let _two = places.take(TWO).unwrap();
        drop(held);
        let _local: Vec<_> = (0..3).map(|_| places.take(Client::Local).unwrap()).collect();
        assert_eq!(places.take(Client::Local).unwrap_err(), NoPlace::Full);
        assert!(!places.lock().counts.contains_key(&ONE), "who has no place is forgotten");
    }

    #[test]
    fn a_client_that_takes_every_place_makes_room_for_others_until_all_have_as_many() {
        let places = Places::new(4, 4);
        let ones: Vec<_> = (0..4).map(|_| places.take(ONE).unwrap()).collect();
        // Two of them have sessions. Of the others, the older is ended first.
        for number in [0, 2] {
            ones[number].carried.to_enclave.store(5000, Ordering::Relaxed);
            ones[number].carried.to_partner.store(5000, Ordering::Relaxed);
        }
        let displaced = |ones: &[Place]| -> Vec<bool> {
            ones.iter().map(|place| place.displaced.is_cancelled()).collect()
        };
        let _first = places.take(TWO).unwrap();
        assert_eq!(displaced(&ones), [false, true, false, false]);
        let _second = places.take(TWO).unwrap();
        assert_eq!(displaced(&ones), [false, true, false, true]);
        // Both have two places now.
        assert_eq!(places.take(TWO).unwrap_err(), NoPlace::Full);
        assert_eq!(places.take(ONE).unwrap_err(), NoPlace::Full);
        // A third client gets one of its own; giving back what was displaced changes nothing.
        drop(ones);
        let ones: Vec<_> = (0..2).map(|_| places.take(ONE).unwrap()).collect();
        let _third = places.take(client("192.0.2.3")).unwrap();
        assert_eq!(places.lock().connections.len(), 4);
        drop(ones);
    }
}
