//! The check and the migration of a file.

use super::migrations::steps;
use super::refused::Refused;
use super::tables::VERSION;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, query_scalar, raw_sql};

/// Marks the file as belonging to this crate, in the header of SQLite.
const APPLICATION_ID: i64 = 0x746f_7072;

/// Refuses a file of another application before anything is changed in it, unless the application shares the file.
/// Returns whether the file belongs to this crate.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    is_shared: bool,
) -> Result<bool, Refused> {
    // The order matters: another process may create the tables between the two queries, and marks the file in the same
    // transaction.
    let tables: i64 = query_scalar("SELECT count(*) FROM sqlite_schema")
        .fetch_one(&mut *connection)
        .await?;
    let application: i64 = query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let is_new = application == 0 && tables == 0;
    let is_own = application == APPLICATION_ID || (is_new && !is_shared);
    if !is_own && !is_shared {
        return Err(Refused::Foreign);
    }
    Ok(is_own)
}

/// Migrates a file to the present version.
pub(super) async fn migrate(
    connection: &mut SqliteConnection,
    is_shared: bool,
) -> Result<(), Refused> {
    // Usually the file needs no migration, and so no lock.
    if version(connection).await? == VERSION {
        return Ok(());
    }
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    // Another process may have been faster.
    let is_own = check(&mut transaction, is_shared).await?;
    for step in steps(version(&mut transaction).await?) {
        raw_sql(step).execute(&mut *transaction).await?;
    }
    if is_own {
        // The version in the header makes earlier versions of this crate refuse the file.
        let marks =
            format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION}");
        // The statement is built from numbers only.
        raw_sql(AssertSqlSafe(marks))
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn version(connection: &mut SqliteConnection) -> Result<usize, Refused> {
    let has_table = "SELECT count(*) FROM sqlite_schema WHERE name = 'promises_schema'";
    let has_table: i64 = query_scalar(has_table).fetch_one(&mut *connection).await?;
    let application: i64 = query_scalar("PRAGMA application_id")
        .fetch_one(&mut *connection)
        .await?;
    let version = if has_table > 0 {
        "SELECT version FROM promises_schema"
    } else if application == APPLICATION_ID {
        "PRAGMA user_version"
    } else {
        return Ok(0);
    };
    let found: i64 = query_scalar(version).fetch_one(connection).await?;
    let version = usize::try_from(found).ok();
    version
        .filter(|version| *version <= VERSION)
        .ok_or(Refused::Version {
            found,
            known: VERSION,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::migrations::EARLY_STEPS;
    use sqlx::Row;
    use std::collections::BTreeSet;

    /// Returns the columns of all tables, and the statements that have created everything else.
    async fn schema(connection: &mut SqliteConnection) -> BTreeSet<String> {
        let columns =
            "SELECT m.name, p.name, p.type, p.\"notnull\", coalesce(p.dflt_value, ''), p.pk
            FROM sqlite_schema m, pragma_table_info(m.name) p WHERE m.type = 'table'";
        let columns = sqlx::query(columns).fetch_all(&mut *connection).await;
        let columns = columns.unwrap().into_iter().map(|row| {
            let [table, column, of, default] =
                [0, 1, 2, 4].map(|index| row.get::<String, _>(index));
            let [is_required, key] = [3, 5].map(|index| row.get::<i64, _>(index));
            format!("{table} {column} {of} {is_required} {default} {key}")
        });
        let others = "SELECT coalesce(sql, name) FROM sqlite_schema WHERE type <> 'table'";
        let others = query_scalar::<_, String>(others)
            .fetch_all(connection)
            .await;
        columns.chain(others.unwrap()).collect()
    }

    #[tokio::test]
    async fn an_old_file_gets_the_schema_of_a_new_one() {
        let mut new = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        migrate(&mut new, false).await.unwrap();
        let expected = schema(&mut new).await;
        assert!(expected.len() > 30, "{expected:?}");
        for version in 1..=EARLY_STEPS.len() {
            let mut old = SqliteConnection::connect("sqlite::memory:").await.unwrap();
            for step in &EARLY_STEPS[..version] {
                raw_sql(*step).execute(&mut old).await.unwrap();
            }
            let marks = format!(
                "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {version}"
            );
            raw_sql(AssertSqlSafe(marks))
                .execute(&mut old)
                .await
                .unwrap();
            migrate(&mut old, false).await.unwrap();
            assert_eq!(schema(&mut old).await, expected, "from version {version}");
        }
    }
}
