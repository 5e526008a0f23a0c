//! The treasury: between the store and the cores. It makes the keyring of what is stored, keeps every budget's account
//! supplied with leases, and writes the ledger.
//!
//! ```text
//!  store ◄─ feed, record ─ treasury ─ funds, keyring ─► control ─ orders ─► cores
//!                             ▲ reload, close
//!  entries ─ pending.rs ─► record
//! ```
//!
//! Invariants: the ledger is written beside all else, so that no lease and no change waits for it; a budget has one [`BudgetId`] for as long as the process runs; cores get an account before a keyring that needs
//! it; an entry of the ledger is kept until the store has it, up to a bound, beyond which entries are dropped and counted; the
//! control thread never waits for this task, nor this task for a core. Deliberately absent: decisions about requests.

mod keys;
mod pending;
mod sharing;
mod view;
mod webhook;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sluice_policy::budget::{Account, BudgetId, Done, Feeder, Holder, Plan};
use sluice_policy::keyring::Keyring;
use sluice_policy::money::NanoUsd;
use sluice_policy::rate::Limiter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use self::pending::Pending;
use self::sharing::Sharing;
pub use self::view::{BudgetView, Budgets};
use self::webhook::Webhook;
use super::store::{BudgetRow, Entry, Scopes, Store, StoreError};

/// How often accounts are looked at.
const PERIOD: Duration = Duration::from_millis(50);
/// How often the ledger is cleared of what is too old, in periods: once a minute.
const FORGET_PERIODS: u64 = 1_200;
/// Requests of the ledger that one transaction deletes at most.
const FORGET_MOST: u32 = 20_000;
const COMMANDS: usize = 64;
/// How long a change waits for the cores.
const SETTLED: Duration = Duration::from_secs(1);
const DAY_S: u64 = 86_400;

/// Accounts that cores shall have.
pub type Funds = Arc<[(BudgetId, Arc<Account>)]>;

/// What the control thread is told.
#[derive(Debug)]
pub enum Event {
    /// Each core shall use these accounts.
    Funds(Funds),
    /// Requests that begin from now on are let in by this keyring.
    Keyring(Arc<Keyring>),
    /// Somebody waits until all that came before this is in force on every core.
    Settled(oneshot::Sender<()>),
    /// More of a budget has been spent than its owner wanted to hear of; once in a period.
    Soft {
        /// Whose budget.
        owner: Box<str>,
        /// What was spent.
        spent: NanoUsd,
        /// What may be spent.
        limit: NanoUsd,
    },
}

enum Command {
    Reload(oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<()>),
}

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Cores that share each account.
    pub cores: u32,
    /// Days for which single requests are kept.
    pub ledger_days: u32,
    /// Days for which their hourly sums are kept.
    pub sums_days: u32,
    /// Where to tell of budgets of which more was spent than their owners wanted to hear of: an HTTP or HTTPS URL.
    pub webhook: Option<Arc<str>>,
}

/// Where changes to customers, teams, keys, budgets and limits are made.
#[derive(Clone)]
pub struct Desk {
    commands: mpsc::Sender<Command>,
    events: mpsc::UnboundedSender<Event>,
    store: Arc<Store>,
}

/// The way to the treasury's task.
pub struct Treasury {
    commands: mpsc::Sender<Command>,
    events: mpsc::UnboundedSender<Event>,
    store: Arc<Store>,
    ledger: Arc<Pending>,
    limiters: Limiters,
    budgets: Budgets,
    task: JoinHandle<()>,
    scribe: AbortHandle,
    /// Where several processes share the store: what tells them of this one's rate limits.
    sharing: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

/// Rate limits by their rows.
type Limiters = Arc<Mutex<HashMap<i64, Arc<Limiter>>>>;

/// What counts against one rate limit, for the next process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The limit's row.
    row: i64,
    /// What is counted: a slice of another unit or window means something else.
    unit: String,
    window: String,
    /// Counts by the number of their slice.
    counted: Vec<(u64, u64)>,
}

struct Task {
    store: Arc<Store>,
    holder: Holder,
    settings: Settings,
    webhook: Option<Webhook>,
    clock: fn() -> u64,
    /// By [`BudgetId`]; `None` where a budget is gone.
    books: Vec<Option<Book>>,
    ids: HashMap<i64, BudgetId>,
    limiters: Limiters,
    ledger: Arc<Pending>,
    budgets: Budgets,
    events: mpsc::UnboundedSender<Event>,
}

/// What is known of one budget.
struct Book {
    row: BudgetRow,
    owner: Box<str>,
    feeder: Feeder,
    /// The period in which its owner has been warned.
    warned: Option<u64>,
}

impl Desk {
    /// The store, for changes and reports. What is changed comes into force with [`Desk::reload`].
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Brings what is stored into force.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.send(Command::Reload(reply)).await;
        sent.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The same, and waits until every core goes by it, for a second at most: a core that does not look at its orders for so long
    /// serves nobody.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn bring_into_force(&self) -> Result<(), StoreError> {
        self.reload().await?;
        let (whoever, answer) = oneshot::channel();
        if self.events.send(Event::Settled(whoever)).is_ok() {
            let _ = tokio::time::timeout(SETTLED, answer).await;
        }
        Ok(())
    }
}

impl Treasury {
    /// Leases a first part of every budget, and goes on on the current runtime. What comes first from the receiver are the
    /// funds and the keyring to begin with.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(store: Store, settings: Settings) -> Result<(Self, mpsc::UnboundedReceiver<Event>), StoreError> {
        Self::start_at(store, settings, unix_s).await
    }

    async fn start_at(
        store: Store,
        settings: Settings,
        clock: fn() -> u64,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Event>), StoreError> {
        let store = Arc::new(store);
        let (events, receiver) = mpsc::unbounded_channel();
        let (commands, orders) = mpsc::channel(COMMANDS);
        let ledger = Arc::new(Pending::default());
        let limiters = Limiters::default();
        let mut task = Task {
            holder: store.holder(),
            store: store.clone(),
            webhook: settings.webhook.as_deref().and_then(Webhook::start),
            settings,
            clock,
            books: Vec::new(),
            ids: HashMap::new(),
            limiters: limiters.clone(),
            ledger: ledger.clone(),
            budgets: Budgets::default(),
            events: events.clone(),
        };
        task.reload().await?;
        let sharing = if store.is_shared() {
            let (end, ends) = oneshot::channel();
            let sharing = Sharing::start(store.clone(), limiters.clone(), clock).await?;
            Some((end, tokio::spawn(sharing.run(ends))))
        } else {
            None
        };
        let treasury = Self {
            commands,
            events,
            store: store.clone(),
            ledger: ledger.clone(),
            limiters,
            budgets: task.budgets.clone(),
            scribe: tokio::spawn(ledger.write_all(store)).abort_handle(),
            task: tokio::spawn(task.run(orders)),
            sharing,
        };
        Ok((treasury, receiver))
    }

    /// The store, for changes and reports. What is changed comes into force with [`Treasury::reload`].
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Writes requests into the ledger, soon.
    pub fn record(&self, entries: Vec<Entry>) {
        self.ledger.add(entries);
    }

    /// Entries of the ledger that were lost because the store did not follow. Budgets have counted those requests all the
    /// same.
    pub fn dropped(&self) -> u64 {
        self.ledger.dropped()
    }

    /// Entries that the ledger does not have yet.
    pub fn waiting(&self) -> usize {
        self.ledger.len()
    }

    /// How the budgets stand.
    pub fn budgets(&self) -> Budgets {
        self.budgets.clone()
    }

    /// Where changes are made.
    pub fn desk(&self) -> Desk {
        Desk {
            commands: self.commands.clone(),
            events: self.events.clone(),
            store: self.store.clone(),
        }
    }

    /// What counts against rate limits now.
    pub fn rates(&self, unix_s: u64) -> Vec<Rate> {
        let limiters = lock(&self.limiters);
        let all = limiters.iter().map(|(&row, limiter)| Rate {
            row,
            unit: limiter.unit().name().to_owned(),
            window: limiter.window().name(),
            counted: limiter.counted(unix_s),
        });
        all.filter(|rate| !rate.counted.is_empty()).collect()
    }

    /// Has what the process that this one takes over from has counted count here too. If they share the store, it says so
    /// there.
    pub fn add_rates(&self, rates: &[Rate], unix_s: u64) {
        if self.sharing.is_some() {
            return;
        }
        let limiters = lock(&self.limiters);
        for rate in rates {
            if let Some(limiter) = limiters.get(&rate.row)
                && limiter.unit().name() == rate.unit
                && limiter.window().name() == rate.window
            {
                limiter.add_counted(&rate.counted, unix_s);
            }
        }
    }

    /// Brings what is stored into force; see [`Desk::reload`].
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn reload(&self) -> Result<(), StoreError> {
        self.desk().reload().await
    }

    /// Gives everything back to the store that was not spent. To be called when the cores have closed their purses; bounded in
    /// time by the caller.
    pub async fn close(mut self) {
        if let Some((end, sharing)) = self.sharing.take() {
            drop(end);
            let _ = sharing.await;
        }
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close(reply)).await.is_ok() {
            let _ = answer.await;
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Treasury {
    fn drop(&mut self) {
        if let Some((_, sharing)) = &self.sharing {
            sharing.abort();
        }
        self.scribe.abort();
    }
}

fn lock(limiters: &Limiters) -> MutexGuard<'_, HashMap<i64, Arc<Limiter>>> {
    limiters.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Task {
    async fn run(mut self, mut orders: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(PERIOD);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut periods: u64 = 0;
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    periods += 1;
                    if self.sync().await == Err(StoreError::Closed) {
                        return;
                    }
                    if periods.is_multiple_of(FORGET_PERIODS) {
                        self.forget().await;
                    }
                }
                () = self.store.changed() => {
                    if let Err(error) = self.reload().await {
                        tracing::warn!(%error, "what another process has changed is not in force");
                    }
                }
                command = orders.recv() => match command {
                    Some(Command::Reload(reply)) => {
                        let _ = reply.send(self.reload().await);
                    }
                    Some(Command::Close(reply)) => {
                        self.close().await;
                        let _ = reply.send(());
                        return;
                    }
                    None => return,
                },
            }
        }
    }

    /// Asks the store for what accounts need, and tells it what was spent; passes on what is durable.
    async fn sync(&mut self) -> Result<(), StoreError> {
        let now_s = (self.clock)();
        let mut asked: Vec<(usize, Plan)> = Vec::new();
        for (index, book) in self.books.iter_mut().enumerate() {
            if let Some(book) = book {
                let plan = book.feeder.plan(now_s);
                if !plan.is_empty() {
                    asked.push((index, plan));
                }
            }
        }
        self.carry_out(asked, now_s).await
    }

    async fn carry_out(&mut self, asked: Vec<(usize, Plan)>, now_s: u64) -> Result<(), StoreError> {
        if asked.is_empty() {
            return Ok(());
        }
        let row = |index: usize| self.books[index].as_ref().map_or(0, |book| book.row.id);
        let plans: Arc<[_]> = asked.iter().map(|(index, plan)| (row(*index), plan.clone())).collect();
        let done = match self.store.feed(self.holder, plans, now_s).await {
            Ok(done) => done,
            Err(error) => {
                for (index, plan) in &asked {
                    if let Some(book) = &mut self.books[*index] {
                        book.feeder.failed(plan);
                    }
                }
                if error != StoreError::Fenced {
                    return Err(error);
                }
                // What is in hand was counted as spent, and may be spent; from now on there are new leases.
                self.books.iter_mut().flatten().for_each(|book| book.feeder.fenced());
                self.holder = self.store.holder();
                tracing::warn!("this process was taken for dead; what it had leased counts as spent");
                return Ok(());
            }
        };
        let mut funds = Vec::new();
        for ((index, plan), done) in asked.iter().zip(&done) {
            let Some(book) = &mut self.books[*index] else {
                continue;
            };
            self.budgets.with(|all| {
                if let Some(Some(view)) = all.get_mut(*index) {
                    view.spent = done.spent.0;
                    view.unleased = u64::try_from(done.remaining).unwrap_or(0);
                }
            });
            let id = BudgetId(u32::try_from(*index).unwrap_or(u32::MAX));
            funds.extend(book.feeder.done(plan, done).into_iter().map(|account| (id, account)));
            if let Some(event) = book.warn(done) {
                if let Some(webhook) = &self.webhook {
                    webhook.tell(&event);
                }
                let _ = self.events.send(event);
            }
        }
        if !funds.is_empty() {
            let _ = self.events.send(Event::Funds(funds.into()));
        }
        Ok(())
    }

    async fn forget(&mut self) {
        let now_s = (self.clock)();
        let before = |days: u32| now_s.saturating_sub(u64::from(days) * DAY_S);
        let (ledger_s, sums_s) = (before(self.settings.ledger_days), before(self.settings.sums_days));
        let is_shared = self.store.is_shared();
        let forgotten = self.store.ask(move |tx| {
            if is_shared {
                tx.forget_counts(now_s)?;
            }
            tx.forget(ledger_s, sums_s, FORGET_MOST)
        });
        let forgotten = forgotten.await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "old entries of the ledger stay");
        }
    }

    /// Reads customers, teams, keys, budgets and limits anew.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let scopes = self.store.ask(|tx| tx.scopes()).await?;
        self.follow_budgets(&scopes);
        // New budgets have accounts before a keyring names them.
        self.sync().await?;
        let keyring = keys::keyring(&scopes, &self.ids, &mut lock(&self.limiters));
        let _ = self.events.send(Event::Keyring(Arc::new(keyring)));
        Ok(())
    }

    fn follow_budgets(&mut self, scopes: &Scopes) {
        let owners: HashMap<i64, &str> = scopes
            .scopes
            .iter()
            .map(|scope| (scope.id, scope.name.as_str()))
            .collect();
        for row in &scopes.budgets {
            let next = BudgetId(u32::try_from(self.books.len()).unwrap_or(u32::MAX));
            let id = *self.ids.entry(row.id).or_insert(next);
            if id == next {
                self.books.push(None);
            }
            match &mut self.books[id.0 as usize] {
                Some(book) => {
                    if book.row.limit != row.limit {
                        book.feeder.set_limit(row.limit);
                    }
                    // A top-up or a reset may have made room.
                    book.feeder.ask();
                    book.row = row.clone();
                }
                none => {
                    *none = Some(Book {
                        row: row.clone(),
                        owner: owners.get(&row.scope).copied().unwrap_or_default().into(),
                        feeder: Feeder::new(row.limit, row.window, self.settings.cores),
                        warned: None,
                    });
                }
            }
        }
        let stored: std::collections::HashSet<i64> = scopes.budgets.iter().map(|row| row.id).collect();
        for book in &mut self.books {
            book.take_if(|book| !stored.contains(&book.row.id));
        }
        self.ids.retain(|row, _| stored.contains(row));
        let books = self.books.iter();
        self.budgets.with(|all| {
            all.resize(books.len(), None);
            for (view, book) in all.iter_mut().zip(books) {
                *view = book.as_ref().map(|book| book.view(view.as_ref()));
            }
        });
    }

    async fn close(&mut self) {
        let now_s = (self.clock)();
        let mut asked = Vec::new();
        for (index, book) in self.books.iter_mut().enumerate() {
            if let Some(book) = book {
                asked.push((index, book.feeder.close()));
            }
        }
        if let Err(error) = self.carry_out(asked, now_s).await {
            tracing::warn!(%error, "leases could not be given back; they count as spent");
        }
        loop {
            match self.ledger.write(&self.store).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "the last entries of the ledger are lost"),
            }
        }
    }
}

impl Book {
    /// How it stands, as far as it is known; the store says the rest.
    fn view(&self, before: Option<&BudgetView>) -> BudgetView {
        let limit = self.row.limit.0;
        BudgetView {
            row: self.row.id,
            owner: self.owner.clone(),
            window: self.row.window.name().into(),
            limit,
            spent: before.map_or(0, |before| before.spent),
            unleased: before.map_or(limit, |before| before.unleased),
        }
    }

    fn warn(&mut self, done: &Done) -> Option<Event> {
        let soft = self.row.soft?;
        let period = self.feeder.account()?.period().index;
        if done.spent < soft || self.warned == Some(period) {
            return None;
        }
        self.warned = Some(period);
        Some(Event::Soft {
            owner: self.owner.clone(),
            spent: done.spent,
            limit: self.row.limit,
        })
    }
}

fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
