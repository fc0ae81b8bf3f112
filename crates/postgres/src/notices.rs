//! Listens for notifications of other processes, on a connection that is not in the pool: calls do not wait for it, and a
//! pool that the application has does not lose a connection to it.

use super::announcements::Announcements;
use super::database::Database;
use super::observe;
use super::statement::{Statement, text};
use super::wakes::{Topic, Wakes};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row, raw_sql};
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};
use tower_promises_backend::BackendError;
use tower_promises_backend::kit::backoff::Backoff;
use tower_promises_backend::kit::deadline::in_time;
use tower_promises_backend::kit::sync::lock;

/// The time without notifications after which the connection is tested.
const QUIET: Duration = Duration::from_secs(60);

/// The pause before another attempt if notifications do not arrive.
const PAUSE_OF_POOLERS: Duration = Duration::from_secs(5 * 60);

/// A setting of the server that belongs to this package, and has no meaning but its value.
const SETTING: &str = "tower_promises.session";

pub(super) struct Notices {
    database: Arc<Database>,
    announcements: Arc<Announcements>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Notices {
    pub(super) fn new(database: Arc<Database>, announcements: Arc<Announcements>) -> Arc<Self> {
        Arc::new(Self {
            database,
            announcements,
            task: Mutex::default(),
        })
    }

    pub(super) fn wakes(&self) -> &Arc<Wakes> {
        self.announcements.wakes()
    }

    /// The channel of notifications, unless they are off.
    pub(super) fn channel(&self) -> Option<&str> {
        self.announcements.channel()
    }

    /// Starts to listen, unless notifications are off or a task listens.
    pub(super) fn start(&self) {
        let Some(channel) = self.announcements.channel() else {
            return;
        };
        let mut task = lock(&self.task);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        // Outside of a runtime, other calls fail too.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let listener = Listener {
            database: self.database.clone(),
            wakes: self.wakes().clone(),
            channel: channel.to_owned(),
        };
        *task = Some(runtime.spawn(listener.run()));
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

struct Listener {
    database: Arc<Database>,
    wakes: Arc<Wakes>,
    channel: String,
}

/// Why notifications end.
enum End {
    /// The connection is lost.
    Lost(BackendError),
    /// Notifications do not arrive.
    Missing,
}

impl Listener {
    async fn run(self) {
        let _off = OffOnDrop(self.wakes.clone());
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            let end = self.listen().await;
            self.wakes.set_notifications(false);
            let pause = match end {
                End::Lost(error) => {
                    observe::notifications_lost(&error);
                    backoff.pause_after(began.elapsed())
                }
                End::Missing => {
                    observe::notifications_missing();
                    PAUSE_OF_POOLERS
                }
            };
            sleep(pause).await;
        }
    }

    async fn listen(&self) -> End {
        let mut listener = match self.connect().await {
            Ok(Some(listener)) => listener,
            Ok(None) => return End::Missing,
            Err(error) => return End::Lost(error),
        };
        loop {
            match self.test(&mut listener).await {
                Ok(true) => self.wakes.set_notifications(true),
                Ok(false) => return End::Missing,
                Err(error) => return End::Lost(error),
            }
            while let Ok(received) = timeout(QUIET, self.receive(&mut listener)).await {
                match received {
                    Ok(payload) => self.wakes.wake(&Topic::notified(&payload)),
                    Err(error) => return End::Lost(error),
                }
            }
        }
    }

    /// Opens a connection that listens, or none through a pooler.
    ///
    /// A session that a pooler shares must not listen: the server would send notifications to clients of the pooler that do
    /// not expect them. So the connection begins with a setting that only a session of its own has. A pooler refuses the
    /// setting or does not pass it on.
    async fn connect(&self) -> Result<Option<PgListener>, BackendError> {
        let token = RandomState::new().build_hasher().finish().to_string();
        let connected = async {
            let options = self.database.pool().connect_options();
            let options = (*options).clone().options([(SETTING, &*token)]);
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(self.database.settings().timeout)
                .connect_lazy_with(options);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            let setting = format!("SELECT current_setting('{SETTING}', true)");
            let setting = raw_sql(AssertSqlSafe(setting));
            let found = setting.fetch_one(&mut listener).await?;
            if found.try_get::<Option<String>, _>(0)? != Some(token) {
                return Ok(None);
            }
            listener.listen(&self.channel).await?;
            Ok(Some(listener))
        };
        let connected = async {
            match connected.await {
                Err(error) if is_refused_setting(&error) => Ok(None),
                connected => connected.map_err(|error| self.database.error(error)),
            }
        };
        in_time(self.database.settings().timeout, connected).await
    }

    /// Whether a notification arrives that is sent over a connection of the pool, on which all others are sent.
    async fn test(&self, listener: &mut PgListener) -> Result<bool, BackendError> {
        let send = Statement::write(format!(
            "WITH tokens AS MATERIALIZED (SELECT gen_random_uuid()::text AS token)
            SELECT token, pg_notify({}, 'test/' || token) FROM tokens",
            text(&self.channel)
        ));
        let rows = self.database.run(send).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound);
        let token = row.and_then(|row| row.try_get::<String, _>(0));
        let token = token.map_err(|error| self.database.error(error))?;
        let expected = format!("test/{token}");
        let end = tokio::time::Instant::now() + self.database.settings().timeout;
        while let Ok(received) = timeout_at(end, self.receive(listener)).await {
            let payload = received?;
            if payload == expected {
                return Ok(true);
            }
            self.wakes.wake(&Topic::notified(&payload));
        }
        Ok(false)
    }

    async fn receive(&self, listener: &mut PgListener) -> Result<String, BackendError> {
        match listener.try_recv().await {
            Ok(Some(notification)) => Ok(notification.payload().to_owned()),
            Ok(None) => Err(BackendError::unavailable(
                "the server has ended the connection",
            )),
            Err(error) => Err(self.database.error(error)),
        }
    }
}

/// Whether a pooler has refused the setting. The server itself accepts it.
fn is_refused_setting(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|error| error.message().contains("startup parameter"))
}

/// Makes the process poll when the task ends, also with its runtime.
struct OffOnDrop(Arc<Wakes>);

impl Drop for OffOnDrop {
    fn drop(&mut self) {
        self.0.set_notifications(false);
    }
}
