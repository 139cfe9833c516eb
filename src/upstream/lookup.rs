//! Looking names up with the system's resolver: once at a time for each name, and all who wait share what is found.
//!
//! That resolver cannot be told to give up: a look-up that nobody waits for any more keeps its thread until the resolver
//! does. So a name whose server is dead ties up one thread, however many requests want it, and takes no other name's place.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::{Semaphore, watch};

/// How many names a worker looks up at once. Names come from the configuration alone; this bounds the threads that an outage
/// of all name servers ties up.
const AT_ONCE: usize = 32;

/// What came of a look-up.
type Found = Result<Rc<[SocketAddr]>, Arc<io::Error>>;

/// The names that are being looked up.
#[derive(Clone)]
pub(super) struct Lookups(Rc<Shared>);

struct Shared {
    places: Semaphore,
    flights: RefCell<HashMap<Rc<str>, watch::Receiver<Option<Found>>>>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self(Rc::new(Shared { places: Semaphore::new(AT_ONCE), flights: RefCell::default() }))
    }
}

impl Lookups {
    /// The addresses of `host`, with this port.
    pub(super) async fn find(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Arc<io::Error>> {
        let ask = |host: Rc<str>| async move { lookup_host((&*host, 0)).await.map(Iterator::collect) };
        let found = self.share(host, ask).await?;
        Ok(found.iter().map(|address| with_port(*address, port)).collect())
    }

    /// What `ask` finds, unless somebody asks already.
    async fn share<F>(&self, host: &str, ask: impl FnOnce(Rc<str>) -> F) -> Found
    where
        F: Future<Output = io::Result<Rc<[SocketAddr]>>> + 'static,
    {
        let known = self.0.flights.borrow().get(host).cloned();
        let mut flight = known.unwrap_or_else(|| self.begin(host.into(), ask));
        let found = flight.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        // It breaks off only with its worker.
        found.unwrap_or_else(|| Err(Arc::new(io::Error::other("the look-up broke off"))))
    }

    fn begin<F>(&self, host: Rc<str>, ask: impl FnOnce(Rc<str>) -> F) -> watch::Receiver<Option<Found>>
    where
        F: Future<Output = io::Result<Rc<[SocketAddr]>>> + 'static,
    {
        let (tell, flight) = watch::channel(None);
        self.0.flights.borrow_mut().insert(host.clone(), flight.clone());
        let asked = ask(host.clone());
        let flying = Flying { shared: self.0.clone(), host };
        tokio::task::spawn_local(async move {
            let place = flying.shared.places.acquire().await;
            let found = asked.await;
            drop(place);
            drop(flying);
            tell.send_replace(Some(found.map_err(Arc::new)));
        });
        flight
    }
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// A look-up under way. Whoever comes after its end begins another, however it ended.
struct Flying {
    shared: Rc<Shared>,
    host: Rc<str>,
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.shared.flights.borrow_mut().remove(&self.host);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::{pending, ready};

    use tokio::sync::Notify;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    fn here() -> Rc<[SocketAddr]> {
        Rc::new([([127, 0, 0, 1], 0).into()])
    }

    #[test]
    fn all_who_want_a_name_at_once_share_one_look_up_and_the_next_begins_another() {
        run(async {
            let (lookups, asked, answer) = (Lookups::default(), Rc::new(Cell::new(0)), Rc::new(Notify::new()));
            for round in 1..3 {
                let waiting: Vec<_> = (0..5)
                    .map(|_| {
                        let (lookups, asked, answer) = (lookups.clone(), asked.clone(), answer.clone());
                        spawn_local(async move {
                            let ask = |_| async move {
                                asked.set(asked.get() + 1);
                                answer.notified().await;
                                if asked.get() == 1 { Ok(here()) } else { Err(io::ErrorKind::NotFound.into()) }
                            };
                            lookups.share("app", ask).await.map_err(|error| error.kind())
                        })
                    })
                    .collect();
                while asked.get() < round {
                    yield_now().await;
                }
                answer.notify_one();
                let expected = if round == 1 { Ok(here()) } else { Err(io::ErrorKind::NotFound) };
                for one in waiting {
                    assert_eq!(one.await.unwrap(), expected);
                }
                assert_eq!(asked.get(), round);
            }
        });
    }

    #[test]
    fn a_name_whose_server_is_dead_takes_no_other_names_place() {
        run(async {
            let lookups = Lookups::default();
            for _ in 0..100 {
                let lookups = lookups.clone();
                spawn_local(async move { lookups.share("dead", |_| pending()).await.map(drop) });
            }
            yield_now().await;
            assert_eq!(lookups.share("well", |_| ready(Ok(here()))).await.unwrap(), here());
        });
    }

    #[test]
    fn no_more_names_are_looked_up_at_once_than_may_be() {
        run(async {
            let (lookups, asked) = (Lookups::default(), Rc::new(Cell::new(0)));
            for number in 0..2 * AT_ONCE {
                let (lookups, asked) = (lookups.clone(), asked.clone());
                spawn_local(async move {
                    let ask = |_| async move {
                        asked.set(asked.get() + 1);
                        pending().await
                    };
                    lookups.share(&number.to_string(), ask).await.map(drop)
                });
            }
            while asked.get() < AT_ONCE {
                yield_now().await;
            }
            for _ in 0..10 {
                yield_now().await;
            }
            assert_eq!(asked.get(), AT_ONCE);
        });
    }
}
