//! State that outlives the configuration that made it.
//!
//! Observations are kept, parameters are replaced. Live state (levels, counts, sockets, stored bodies) is made through a
//! [`Keeper`], by an [`Identity`]: what it is, whose it is, and its **shape**, the traits without which the old state
//! would mean something else. The same identity hands the state over to the next snapshot; another shape starts afresh.
//! **Settings** are traits that may change freely: they are given only so that the reload can tell what was adjusted.
//!
//! What nobody asks for again is dropped with the snapshot that held it: no registry, no sweeping. All of this happens
//! while a snapshot is compiled; what runs holds a plain `Arc`.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

/// Which state is meant, and what it depends on.
#[derive(Clone, Debug)]
pub struct Identity {
    kind: &'static str,
    name: String,
    shape: Vec<Trait>,
    settings: Vec<Trait>,
    is_told: bool,
    loss: Option<Loss>,
    within: Option<Within>,
}

/// What is lost when a state is dropped that an operator should hear of.
type Loss = fn(&(dyn Any + Send + Sync)) -> Option<String>;

/// What goes with a state that is dropped.
type Within = fn(&(dyn Any + Send + Sync)) -> Vec<Fate>;

type Trait = (&'static str, String);

impl Identity {
    /// The state of this kind (`pool`, `listener`) that belongs to the thing of this name.
    pub fn of(kind: &'static str, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
            shape: Vec::new(),
            settings: Vec::new(),
            is_told: true,
            loss: None,
            within: None,
        }
    }

    /// A trait without which the state would mean something else: if it changes, the state starts afresh.
    #[must_use]
    pub fn shape(mut self, name: &'static str, value: impl Display) -> Self {
        self.shape.push((name, value.to_string()));
        self
    }

    /// A trait that the state takes over when it changes.
    #[must_use]
    pub fn setting(mut self, name: &'static str, value: impl Display) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    /// Asked of the state when it is dropped: what goes with it that nobody else tells of.
    #[must_use]
    pub fn loss(mut self, loss: Loss) -> Self {
        self.loss = Some(loss);
        self
    }

    /// Asked of the state when it is dropped: which other states it has made, which end with it. They are told even where it
    /// is not.
    #[must_use]
    pub fn within(mut self, within: Within) -> Self {
        self.within = Some(within);
        self
    }

    /// Of the program's own concern: no report tells of it.
    #[must_use]
    pub fn untold(mut self) -> Self {
        self.is_told = false;
        self
    }
}

/// The state that a snapshot holds, and what goes with it. Dropped with the snapshot.
#[derive(Default)]
pub struct Kept {
    states: BTreeMap<Key, Held>,
    notes: Vec<Box<dyn Any + Send + Sync>>,
}

impl Kept {
    /// What was [attached](Keeper::attach) of this type, in its order.
    pub fn attached<T: Any>(&self) -> impl Iterator<Item = &T> {
        self.notes.iter().filter_map(|note| note.downcast_ref())
    }
}

type Key = (&'static str, String);

struct Held {
    identity: Identity,
    state: State,
}

/// Hands state over from one snapshot to the next.
pub struct Keeper<'k> {
    previous: Option<&'k Kept>,
    next: Kept,
    fates: Vec<Fate>,
}

impl Keeper<'static> {
    /// Nothing was there before.
    pub fn fresh() -> Self {
        Self { previous: None, next: Kept::default(), fates: Vec::new() }
    }
}

impl<'k> Keeper<'k> {
    /// Keeps what this snapshot's state has.
    pub fn after(previous: &'k Kept) -> Self {
        Self { previous: Some(previous), next: Kept::default(), fates: Vec::new() }
    }

    /// The state of this identity: the one that the previous snapshot has, or a new one.
    ///
    /// Asked twice for one identity, it gives the same state twice.
    pub fn keep<T: Any + Send + Sync>(&mut self, identity: Identity, make: impl FnOnce() -> T) -> Arc<T> {
        (self as &mut dyn Keep).keep(identity, make)
    }

    /// Leaves a note with this snapshot, for those who know the type: what is to be done about a state once the snapshot
    /// is in force. Notes are not handed over.
    pub fn attach<T: Any + Send + Sync>(&mut self, note: T) {
        (self as &mut dyn Keep).attach(note);
    }

    /// Tells what became of a state that another one has made.
    pub fn tell(&mut self, fate: Fate) {
        self.fates.push(fate);
    }

    /// What the next snapshot holds, and what became of each state.
    pub fn finish(mut self) -> (Kept, Vec<Fate>) {
        let previous = self.previous.into_iter().flat_map(|previous| &previous.states);
        for ((kind, name), held) in previous.filter(|(key, _)| !self.next.states.contains_key(*key)) {
            let Identity { is_told, loss, within, .. } = &held.identity;
            if *is_told {
                let loss = loss.and_then(|loss| loss(&*held.state));
                self.fates.push(Fate { kind, name: name.clone(), what: What::Dropped, loss });
            }
            self.fates.extend(within.map(|within| within(&*held.state)).into_iter().flatten());
        }
        (self.next, self.fates)
    }
}

/// A [`Keeper`], whatever it keeps from. For those who are handed one together with much else.
pub trait Keep {
    /// As [`Keeper::keep`], of a type that `fits` knows.
    fn keep_any(
        &mut self,
        identity: Identity,
        fits: fn(&(dyn Any + Send + Sync)) -> bool,
        make: &mut dyn FnMut() -> State,
    ) -> State;

    /// As [`Keeper::attach`].
    fn attach_any(&mut self, note: Box<dyn Any + Send + Sync>);
}

/// A state of some type.
pub type State = Arc<dyn Any + Send + Sync>;

impl dyn Keep + '_ {
    /// As [`Keeper::keep`].
    pub fn keep<T: Any + Send + Sync>(&mut self, identity: Identity, make: impl FnOnce() -> T) -> Arc<T> {
        let mut make = Some(make);
        let mut made = || -> State { Arc::new(make.take().expect("a state is made once")()) };
        let state = self.keep_any(identity, |state| state.is::<T>(), &mut made);
        state.downcast().expect("only what fits is handed over")
    }

    /// As [`Keeper::attach`].
    pub fn attach<T: Any + Send + Sync>(&mut self, note: T) {
        self.attach_any(Box::new(note));
    }
}

impl Keep for Keeper<'_> {
    fn keep_any(
        &mut self,
        identity: Identity,
        fits: fn(&(dyn Any + Send + Sync)) -> bool,
        make: &mut dyn FnMut() -> State,
    ) -> State {
        let key = (identity.kind, identity.name.clone());
        if let Some(held) = self.next.states.get(&key).filter(|held| fits(&*held.state)) {
            return held.state.clone();
        }
        let held = self.previous.and_then(|previous| previous.states.get(&key));
        let (state, what) = match held.filter(|held| fits(&*held.state)) {
            None => (make(), What::New),
            Some(held) => {
                let reasons = differences(&held.identity.shape, &identity.shape);
                let adjusted = differences(&held.identity.settings, &identity.settings);
                match (reasons.is_empty(), adjusted.is_empty()) {
                    (true, true) => (held.state.clone(), What::Kept),
                    (true, false) => (held.state.clone(), What::Adjusted(adjusted)),
                    (false, _) => (make(), What::Reset(reasons)),
                }
            }
        };
        if identity.is_told {
            self.fates.push(Fate { kind: identity.kind, name: identity.name.clone(), what, loss: None });
        }
        self.next.states.insert(key, Held { identity, state: state.clone() });
        state
    }

    fn attach_any(&mut self, note: Box<dyn Any + Send + Sync>) {
        self.next.notes.push(note);
    }
}

fn differences(old: &[Trait], new: &[Trait]) -> Vec<Difference> {
    let value =
        |traits: &[Trait], name| traits.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    let mut names: Vec<&'static str> = new.iter().chain(old).map(|(name, _)| *name).collect();
    names.dedup();
    let mut found: Vec<Difference> = Vec::new();
    for name in names {
        let (was, is) = (value(old, name), value(new, name));
        if was != is && found.iter().all(|difference| difference.name != name) {
            found.push(Difference { name, was, is });
        }
    }
    found
}

/// What became of a state at a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fate {
    /// What it is: `pool`, `listener`.
    pub kind: &'static str,
    /// Whose it is.
    pub name: String,
    /// What became of it.
    pub what: What,
    /// What was lost with it, if anything that an operator should hear of.
    pub loss: Option<String>,
}

/// What became of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// There was none before.
    New,
    /// It goes on as it was.
    Kept,
    /// It goes on, with these settings changed.
    Adjusted(Vec<Difference>),
    /// It began afresh, since these traits changed.
    Reset(Vec<Difference>),
    /// Nobody needs it any more. It ends with the last exchange that uses it.
    Dropped,
}

impl What {
    /// One word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Kept => "kept",
            Self::Adjusted(_) => "adjusted",
            Self::Reset(_) => "reset",
            Self::Dropped => "dropped",
        }
    }

    /// Why it is not simply kept.
    pub fn reasons(&self) -> &[Difference] {
        match self {
            Self::Adjusted(reasons) | Self::Reset(reasons) => reasons,
            Self::New | Self::Kept | Self::Dropped => &[],
        }
    }
}

/// A trait that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub name: &'static str,
    /// What it was, if it was given.
    pub was: Option<String>,
    /// What it is, if it is given.
    pub is: Option<String>,
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".into());
        write!(f, "{} {} -> {}", self.name, shown(&self.was), shown(&self.is))
    }
}

impl Display for Fate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.name, self.what.word())?;
        for (place, reason) in self.what.reasons().iter().enumerate() {
            write!(f, "{} {reason}", if place == 0 { "," } else { ";" })?;
        }
        if let Some(loss) = &self.loss {
            write!(f, ", {loss}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(rate: u32, key: &str) -> Identity {
        Identity::of("bucket", "orders").shape("by", key).setting("rate", rate)
    }

    fn next(previous: &Kept, identity: Identity) -> (Kept, Vec<Fate>, Arc<u32>) {
        let mut keeper = Keeper::after(previous);
        let state = keeper.keep(identity, || 0_u32);
        let (kept, fates) = keeper.finish();
        (kept, fates, state)
    }

    #[test]
    fn what_goes_with_a_dropped_state_is_told() {
        let mut keeper = Keeper::fresh();
        let lossy = bucket(5, "ip").loss(|state| state.downcast_ref::<u32>().map(|level| format!("with its {level}")));
        keeper.keep(lossy, || 7_u32);
        let (kept, _) = keeper.finish();
        let (_, fates) = Keeper::after(&kept).finish();
        assert_eq!(fates.iter().map(ToString::to_string).collect::<Vec<_>>(), ["bucket orders: dropped, with its 7"]);
    }

    #[test]
    fn what_a_dropped_state_has_made_is_told_though_it_is_not() {
        let mut keeper = Keeper::fresh();
        let maker = Identity::of("names", "app").untold().within(|state| {
            let level = state.downcast_ref::<u32>().map(ToString::to_string);
            vec![Fate { kind: "bucket", name: "made".into(), what: What::Dropped, loss: level }]
        });
        keeper.keep(maker.clone(), || 7_u32);
        let (kept, fates) = keeper.finish();
        assert_eq!(fates, []);
        let (_, fates) = Keeper::after(&kept).finish();
        assert_eq!(fates.iter().map(ToString::to_string).collect::<Vec<_>>(), ["bucket made: dropped, 7"]);
        assert_eq!(next(&kept, maker).1, []);
    }

    #[test]
    fn state_is_kept_adjusted_reset_and_dropped_by_its_identity() {
        let mut keeper = Keeper::fresh();
        let first = keeper.keep(bucket(5, "ip"), || 7_u32);
        assert!(Arc::ptr_eq(&first, &keeper.keep(bucket(5, "ip"), || 8_u32)), "one identity, one state");
        let (kept, fates) = keeper.finish();
        assert_eq!(fates.iter().map(ToString::to_string).collect::<Vec<_>>(), ["bucket orders: new"]);

        for (identity, is_same, told) in [
            (bucket(5, "ip"), true, "bucket orders: kept"),
            (bucket(9, "ip"), true, "bucket orders: adjusted, rate 5 -> 9"),
            (bucket(9, "user"), false, "bucket orders: reset, by ip -> user"),
            (Identity::of("bucket", "orders"), false, "bucket orders: reset, by ip -> none"),
        ] {
            let (_, fates, state) = next(&kept, identity);
            assert_eq!(Arc::ptr_eq(&state, &first), is_same, "{told}");
            assert_eq!(fates[0].to_string(), told);
        }
        let (_, fates, _) = next(&kept, Identity::of("bucket", "users"));
        let told: Vec<_> = fates.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["bucket users: new", "bucket orders: dropped"]);
    }

    #[test]
    fn a_name_that_stands_for_another_type_of_state_starts_afresh() {
        let mut keeper = Keeper::fresh();
        keeper.keep(Identity::of("pool", "app"), || 1_u32);
        let (kept, _) = keeper.finish();
        let mut keeper = Keeper::after(&kept);
        assert_eq!(*keeper.keep(Identity::of("pool", "app"), || String::from("new")), "new");
    }

    #[test]
    fn what_the_last_snapshot_held_is_dropped_with_it() {
        let mut keeper = Keeper::fresh();
        let state = Arc::downgrade(&keeper.keep(Identity::of("pool", "app").untold(), || 1_u32));
        let (kept, fates) = keeper.finish();
        assert!(fates.is_empty() && state.upgrade().is_some());
        drop(kept);
        assert!(state.upgrade().is_none());
    }
}
