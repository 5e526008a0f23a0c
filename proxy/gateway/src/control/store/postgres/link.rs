//! [`Link`]: one connection to PostgreSQL, as a thread that may block uses it.
//!
//! Invariants: whatever is asked is answered, or fails, within [`PATIENCE`]; after a failure of the connection itself it is not
//! used again; a session that stops in the middle of a transaction is ended by the server, so that its locks hold nobody up
//! for long; TLS, where the URL or the server asks for it, is verified. Deliberately absent: retrying.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use sluice_policy::budget::Vault;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{AsyncMessage, Client, Config, Statement};

use super::tls::Tls;
use crate::control::store::Health;
use crate::control::store::sql::{Error, Result, Row, Value};
use crate::control::store::tx;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long connecting may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// Statements that are kept prepared.
const STATEMENTS_MAX: usize = 128;
/// What every session begins with. Times are milliseconds; the server gives up before [`PATIENCE`] ends, so that it can say why.
/// A replica that dies, or loses its network, in the middle of a transaction holds its budgets' rows until the server ends
/// the session: nobody else can lease meanwhile, so that must not take long.
const SESSION: &str = "SET statement_timeout = 4000; SET lock_timeout = 2000; SET synchronous_commit = on;
    SET idle_in_transaction_session_timeout = 2000; LISTEN sluice";

/// Makes connections.
pub struct Connector {
    config: Config,
    tls: Tls,
    runtime: Rc<Runtime>,
    health: Arc<Health>,
}

/// One connection.
pub struct Link {
    client: Client,
    runtime: Rc<Runtime>,
    driver: AbortHandle,
    statements: RefCell<HashMap<String, Statement>>,
    /// Versions of the budgets that the transaction has locked.
    versions: RefCell<HashMap<i64, i64>>,
}

/// Which budgets.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All.
    All,
    /// Those with leases.
    Leased,
    /// These.
    Rows(&'a [i64]),
}

impl Connector {
    /// For a URL as PostgreSQL's own tools take it.
    ///
    /// # Errors
    /// It is none. The message does not repeat it: it may hold a password.
    pub fn new(url: &str, runtime: Rc<Runtime>, health: Arc<Health>) -> anyhow::Result<Self> {
        let mut config: Config = url
            .parse()
            .map_err(|error| anyhow::anyhow!("the store's URL is not one of PostgreSQL: {}", described(&error)))?;
        if config.get_application_name().is_none() {
            config.application_name("sluice");
        }
        config.connect_timeout(CONNECT_PATIENCE);
        config.tcp_user_timeout(PATIENCE);
        Ok(Self {
            config,
            tls: Tls::new()?,
            runtime,
            health,
        })
    }

    /// A new connection.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub fn connect(&self) -> Result<Link> {
        let connecting = async {
            let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
            let health = self.health.clone();
            let own = Arc::new(AtomicI32::new(0));
            let of_own = own.clone();
            let driver = tokio::spawn(async move {
                while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                    // One's own changes are known, and told of before the transaction's own answer is heard.
                    if let AsyncMessage::Notification(notification) = message
                        && notification.process_id() != of_own.load(Ordering::Acquire)
                        && let Ok(number) = notification.payload().parse()
                    {
                        health.has_changed(number);
                    }
                }
            });
            let driver = driver.abort_handle();
            client.batch_execute(SESSION).await?;
            let session = client.query_one("SELECT pg_backend_pid()", &[]).await?;
            own.store(session.try_get(0)?, Ordering::Release);
            Ok((client, driver))
        };
        let patient = async { tokio::time::timeout(CONNECT_PATIENCE, connecting).await };
        let connected: std::result::Result<_, tokio_postgres::Error> =
            self.runtime.block_on(patient).map_err(|_| silent())?;
        let (client, driver) = connected?;
        Ok(Link {
            client,
            runtime: self.runtime.clone(),
            driver,
            statements: RefCell::default(),
            versions: RefCell::default(),
        })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Link {
    /// Begins a transaction.
    ///
    /// # Errors
    /// The server's.
    pub fn begin(&self) -> Result<()> {
        self.versions.borrow_mut().clear();
        self.batch("BEGIN")
    }

    /// See [`super::Sql::query`].
    ///
    /// # Errors
    /// The server's.
    pub fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let values: Vec<_> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        self.ask(sql, &values)
    }

    /// See [`super::Sql::execute`].
    ///
    /// # Errors
    /// The server's.
    pub fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        let values: Vec<_> = values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let statement = self.prepared(sql)?;
        self.wait(self.client.execute(&statement, &values))
    }

    /// See [`super::Sql::batch`].
    ///
    /// # Errors
    /// The server's.
    pub fn batch(&self, sql: &str) -> Result<()> {
        self.wait(self.client.batch_execute(sql))
    }

    /// Budgets' vaults; `lock`: nobody else changes them before the transaction ends.
    ///
    /// # Errors
    /// The server's.
    pub fn vaults(&self, which: Which<'_>, lock: bool) -> Result<HashMap<i64, Vault>> {
        let (condition, rows) = match which {
            Which::All => ("TRUE", None),
            Which::Leased => ("leases <> ''", None),
            Which::Rows(rows) => ("id = ANY (?1)", Some(rows)),
        };
        let columns = tx::VAULT_COLUMNS;
        let tail = if lock { "ORDER BY id FOR UPDATE" } else { "" };
        let sql = format!("SELECT {columns}, version FROM budgets WHERE {condition} {tail}");
        let values: Vec<_> = rows.iter().map(|rows| rows as &(dyn ToSql + Sync)).collect();
        let rows = self.ask(&sql, &values)?;
        if lock {
            let mut versions = self.versions.borrow_mut();
            for row in &rows {
                versions.insert(row.get(0)?, row.get(9)?);
            }
        }
        rows.iter().map(tx::read_vault).collect()
    }

    /// The version of a budget as the transaction has read it; one that it has made has none yet.
    pub fn version(&self, budget: i64) -> i64 {
        self.versions.borrow().get(&budget).copied().unwrap_or(0)
    }

    /// Writes vaults that are still as they were read, by columns: the number, the version, and what may change. How many
    /// were.
    ///
    /// # Errors
    /// The server's.
    pub fn save(&self, columns: [Vec<Value<'static>>; 9]) -> Result<usize> {
        let values: Vec<_> = columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
        let saved = self.ask(
            "UPDATE budgets AS b SET limit_nanos = n.limit_nanos, extra = n.extra, period = n.period, spent = n.spent,
             slices = n.slices, seen_s = n.seen_s, leases = n.leases, version = b.version + 1
             FROM unnest(?1::bigint[], ?2::bigint[], ?3::bigint[], ?4::bigint[], ?5::bigint[], ?6::bigint[], ?7::text[],
             ?8::bigint[], ?9::text[]) AS n (id, version, limit_nanos, extra, period, spent, slices, seen_s, leases)
             WHERE b.id = n.id AND b.version = n.version RETURNING b.id",
            &values,
        )?;
        Ok(saved.len())
    }

    /// See [`super::Sql::insert_many`]. One statement, by columns: however many rows there are, it is prepared once, and the
    /// server reads a few arrays instead of thousands of values.
    ///
    /// # Errors
    /// The server's.
    pub fn insert_many(&self, into: &str, columns: usize, conflict: &str, rows: &[Value<'_>]) -> Result<()> {
        let column = |at: usize| rows.iter().skip(at).step_by(columns);
        let kind = |at: usize| match column(at).find(|value| **value != Value::Null) {
            Some(Value::Text(_)) => "text",
            Some(Value::Blob(_)) => "bytea",
            // Numbers are what may be missing altogether.
            Some(Value::Int(_) | Value::Null) | None => "bigint",
        };
        let places: Vec<String> = (0..columns).map(|at| format!("?{}::{}[]", at + 1, kind(at))).collect();
        let sql = format!(
            "INSERT INTO {into} SELECT * FROM unnest({}) {conflict}",
            places.join(", ")
        );
        let arrays: Vec<Vec<&Value<'_>>> = (0..columns).map(|at| column(at).collect()).collect();
        let values: Vec<_> = arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        let statement = self.prepared(&sql)?;
        self.wait(self.client.execute(&statement, &values)).map(drop)
    }

    fn ask(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.prepared(sql)?;
        let rows = self.wait(self.client.query(&statement, values))?;
        rows.iter().map(read).collect()
    }

    fn prepared(&self, sql: &str) -> Result<Statement> {
        if let Some(statement) = self.statements.borrow().get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.wait(self.client.prepare(&sql.replace('?', "$")))?;
        let mut statements = self.statements.borrow_mut();
        if statements.len() >= STATEMENTS_MAX {
            statements.clear();
        }
        statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn wait<T>(&self, asked: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>) -> Result<T> {
        let patient = async { tokio::time::timeout(PATIENCE, asked).await };
        Ok(self.runtime.block_on(patient).map_err(|_| silent())??)
    }
}

fn silent() -> Error {
    Error::Fault("the database does not answer".to_owned())
}

fn described(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let described = described(&error);
        let Some(refusal) = error.as_db_error() else {
            return Self::Fault(described);
        };
        let code = refusal.code();
        if *code == SqlState::UNIQUE_VIOLATION && refusal.constraint() == Some("scopes_kind_name_key") {
            return Self::Refused("the name is taken".to_owned());
        }
        let conflicts = [
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::LOCK_NOT_AVAILABLE,
        ];
        if conflicts.contains(code) {
            return Self::Conflict(described);
        }
        // Data that does not fit, and rules of the schema (SQLSTATE classes 22 and 23).
        if code.code().starts_with("22") || code.code().starts_with("23") {
            return Self::Refused(refusal.message().to_owned());
        }
        Self::Fault(described)
    }
}

fn read(row: &tokio_postgres::Row) -> Result<Row> {
    let value = |(index, column): (usize, &tokio_postgres::Column)| {
        let kind = column.type_();
        Ok(if *kind == Type::INT8 {
            row.try_get::<_, Option<i64>>(index)?.map_or(Value::Null, Value::from)
        } else if *kind == Type::INT4 {
            let number = row.try_get::<_, Option<i32>>(index)?;
            number.map_or(Value::Null, |number| Value::Int(number.into()))
        } else if *kind == Type::BYTEA {
            let bytes = row.try_get::<_, Option<Vec<u8>>>(index)?;
            bytes.map_or(Value::Null, |bytes| Value::Blob(bytes.into()))
        } else {
            row.try_get::<_, Option<String>>(index)?
                .map_or(Value::Null, Value::from)
        })
    };
    let values: Result<Vec<_>> = row.columns().iter().enumerate().map(value).collect();
    Ok(Row(values?))
}

impl ToSql for Value<'_> {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut bytes::BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(number) if *kind == Type::INT4 => i32::try_from(*number)?.to_sql(kind, out),
            Value::Int(number) => number.to_sql(kind, out),
            Value::Text(text) => text.as_ref().to_sql(kind, out),
            Value::Blob(bytes) => bytes.as_ref().to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Binary
    }

    to_sql_checked!();
}
