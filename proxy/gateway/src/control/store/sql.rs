//! [`Sql`]: one way to speak SQL, to SQLite and to PostgreSQL.
//!
//! Invariants: statements are written once, with `?1`, `?2`, … for values, in what both databases understand; every number is a
//! 64-bit integer, in both; an error says whether what was asked is at fault, or the database. Deliberately absent: floating
//! point, dates and booleans, which the two do not share.

use std::borrow::Cow;
use std::fmt;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode};

use super::postgres::Link;

/// Why a statement was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no such thing.
    Missing,
    /// What was asked contradicts what is stored.
    Refused(String),
    /// Others have taken this process for dead, and what it had leased for spent.
    Fenced,
    /// Another process was quicker; nothing has happened, and it can be tried again at once.
    Conflict(String),
    /// The database's own trouble.
    Fault(String),
}

impl Error {
    /// Whether it is about what was asked, rather than about the database.
    pub fn is_askers(&self) -> bool {
        matches!(self, Self::Missing | Self::Refused(_) | Self::Fenced)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no such thing"),
            Self::Refused(why) | Self::Conflict(why) | Self::Fault(why) => f.write_str(why),
            Self::Fenced => f.write_str("what this process had leased was counted as spent"),
        }
    }
}

impl std::error::Error for Error {}

/// What a statement, and everything made of statements, returns.
pub type Result<T> = std::result::Result<T, Error>;

/// One value, of a statement or of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Nothing.
    Null,
    /// A number, or 0 and 1 for no and yes.
    Int(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Blob(Cow<'a, [u8]>),
}

/// One row of an answer.
#[derive(Debug)]
pub struct Row(pub Vec<Value<'static>>);

/// What a [`Value`] of a row can become.
pub trait FromValue: Sized {
    /// `None` if it is of another type.
    fn from_value(value: &Value<'_>) -> Option<Self>;
}

impl Row {
    /// One column's value.
    ///
    /// # Errors
    /// It is of another type than the schema says.
    pub fn get<T: FromValue>(&self, column: usize) -> Result<T> {
        let value = self.0.get(column).and_then(T::from_value);
        value.ok_or_else(|| Error::Fault(format!("column {column} is not what it should be: {:?}", self.0)))
    }
}

/// A list of values for a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::control::store::sql::Value::from($value)),*] };
}
pub(crate) use values;

/// The database within a transaction.
#[derive(Clone, Copy)]
pub enum Sql<'a> {
    /// A file.
    Sqlite(&'a Connection),
    /// A server.
    Postgres(&'a Link),
}

impl Sql<'_> {
    /// All rows of an answer.
    ///
    /// # Errors
    /// The database's.
    pub fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let connection = match self {
            Self::Postgres(link) => return link.query(sql, values),
            Self::Sqlite(connection) => connection,
        };
        let mut statement = connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut found = statement.query(rusqlite::params_from_iter(values))?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let values: Result<Vec<_>> = (0..columns).map(|column| read(row.get_ref(column)?)).collect();
            rows.push(Row(values?));
        }
        Ok(rows)
    }

    /// The first row of an answer.
    ///
    /// # Errors
    /// There is none, or the database's.
    pub fn one(&self, sql: &str, values: &[Value<'_>]) -> Result<Row> {
        self.query(sql, values)?.into_iter().next().ok_or(Error::Missing)
    }

    /// Carries a statement out; how many rows it has touched.
    ///
    /// # Errors
    /// The database's.
    pub fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        match self {
            Self::Postgres(link) => link.execute(sql, values),
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare_cached(sql)?;
                Ok(statement.execute(rusqlite::params_from_iter(values))? as u64)
            }
        }
    }

    /// Several statements without values.
    ///
    /// # Errors
    /// The database's.
    pub fn batch(&self, sql: &str) -> Result<()> {
        match self {
            Self::Postgres(link) => link.batch(sql),
            Self::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
        }
    }

    /// Inserts rows: `into` is a table with its columns, `rows` holds the values of one row after another, and `conflict` says
    /// what happens to those that are there already.
    ///
    /// # Errors
    /// The database's.
    pub fn insert_many(&self, into: &str, columns: usize, conflict: &str, rows: &[Value<'_>]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let connection = match self {
            Self::Postgres(link) => return link.insert_many(into, columns, conflict, rows),
            Self::Sqlite(connection) => connection,
        };
        let places: Vec<String> = (1..=columns).map(|column| format!("?{column}")).collect();
        let sql = format!("INSERT INTO {into} VALUES ({}) {conflict}", places.join(", "));
        let mut statement = connection.prepare_cached(&sql)?;
        for row in rows.chunks(columns) {
            statement.execute(rusqlite::params_from_iter(row))?;
        }
        Ok(())
    }
}

fn read(value: ValueRef<'_>) -> Result<Value<'static>> {
    Ok(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Text(text) => Value::Text(Cow::Owned(String::from_utf8_lossy(text).into_owned())),
        ValueRef::Blob(bytes) => Value::Blob(Cow::Owned(bytes.to_vec())),
        ValueRef::Real(_) => return Err(Error::Fault("a number with a fraction".to_owned())),
    })
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match &error {
            rusqlite::Error::QueryReturnedNoRows => Self::Missing,
            rusqlite::Error::SqliteFailure(failure, message) if failure.code == ErrorCode::ConstraintViolation => {
                let taken = message.as_ref().is_some_and(|message| message.contains("scopes.name"));
                Self::Refused(if taken {
                    "the name is taken".to_owned()
                } else {
                    error.to_string()
                })
            }
            _ => Self::Fault(error.to_string()),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

/// What is beyond 63 bits becomes the largest number: for a time it means never.
impl From<u64> for Value<'_> {
    fn from(number: u64) -> Self {
        Self::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Value<'_> {
    fn from(number: usize) -> Self {
        Self::from(number as u64)
    }
}

macro_rules! small {
    ($($type:ty)*) => { $(impl From<$type> for Value<'_> {
        fn from(number: $type) -> Self {
            Self::Int(i64::from(number))
        }
    })* };
}
small!(u8 u16 u32 bool);

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl<const N: usize> From<[u8; N]> for Value<'_> {
    fn from(bytes: [u8; N]) -> Self {
        Self::Blob(Cow::Owned(bytes.to_vec()))
    }
}

impl<'a, T> From<Option<T>> for Value<'a>
where
    Value<'a>: From<T>,
{
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Value::from)
    }
}

impl FromValue for i64 {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        i64::from_value(value)?.try_into().ok()
    }
}

impl FromValue for bool {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        Some(i64::from_value(value)? != 0)
    }
}

impl FromValue for String {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone().into_owned()),
            _ => None,
        }
    }
}

impl<const N: usize> FromValue for [u8; N] {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Blob(bytes) => bytes.as_ref().try_into().ok(),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}
