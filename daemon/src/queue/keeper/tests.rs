use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use http::Request;

use super::super::Place;
use super::super::lines::Task;
use super::super::wishes::Wishes;
use super::*;

fn settings() -> Settings {
    Settings {
        engine: Place::Local,
        concurrency: 2,
        max_concurrency: 10,
        max_body: 1 << 20,
        max_size: 8 << 20,
        max_calls: 100,
        reserve: 0,
        retry_for: Duration::from_secs(60),
        callback_timeout: Duration::from_secs(1),
        callback_attempts: 3,
        idempotency: Duration::from_secs(60),
    }
}

fn key() -> FunctionKey {
    FunctionKey::from_route("f").unwrap()
}

fn call(id: &str) -> Box<Invocation> {
    call_with(id, Wishes::default())
}

fn call_with(id: &str, wishes: Wishes) -> Box<Invocation> {
    let (parts, ()) = Request::new(()).into_parts();
    Box::new(Invocation::new(key(), "f".into(), &id.parse().unwrap(), &parts, None, wishes))
}

/// Whoever makes the calls: the test.
struct Hand {
    begun: mpsc::Sender<(Turn, Loaded)>,
    limit: Arc<AtomicUsize>,
    knows: Arc<AtomicBool>,
}

impl Deliverers for Hand {
    fn limit_of(&self, _function: &FunctionKey) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    fn knows(&self, _function: &FunctionKey) -> bool {
        self.knows.load(Ordering::Relaxed)
    }

    fn begin(&self, turn: Turn, loaded: Loaded) {
        self.begun.try_send((turn, loaded)).unwrap();
    }
}

/// A queue that is kept.
struct Running {
    orders: mpsc::Sender<Order>,
    begun: mpsc::Receiver<(Turn, Loaded)>,
    limit: Arc<AtomicUsize>,
    board: Arc<Board>,
    spool: Spool,
    thread: JoinHandle<()>,
}

impl Running {
    fn open(directory: &Path, settings: Settings, knows: bool) -> Self {
        let (orders, receiver) = mpsc::channel(64);
        let (keeper, board, spool) = Keeper::open(directory, settings, receiver).unwrap();
        let (sender, begun) = mpsc::channel(64);
        let limit = Arc::new(AtomicUsize::new(2));
        let hand = Hand { begun: sender, limit: Arc::clone(&limit), knows: Arc::new(AtomicBool::new(knows)) };
        let runtime = Handle::current();
        let thread = std::thread::spawn(move || keeper.run(&runtime, &hand));
        Self { orders, begun, limit, board, spool, thread }
    }

    async fn append(&self, call: Box<Invocation>, body: &[u8]) -> Result<Accepted, Refusal> {
        let mut writer = self.spool.writer();
        writer.write(body).await.unwrap();
        let body = writer.finish().await.unwrap();
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Append { call, body, reply }).await.unwrap();
        answer.await.unwrap()
    }

    async fn next(&mut self) -> (Turn, Loaded) {
        tokio::time::timeout(Duration::from_secs(30), self.begun.recv()).await.unwrap().unwrap()
    }

    async fn end(&self, turn: &Turn, ended: Ended) {
        let order = Order::End { function: turn.function.clone(), number: turn.number, ended };
        self.orders.send(order).await.unwrap();
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> T {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.unwrap();
        answer.await.unwrap()
    }

    /// As if the process had been killed: nothing is told to the keeper.
    async fn kill(self) {
        drop(self.orders);
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }

    fn files(&self, directory: &Path) -> usize {
        std::fs::read_dir(directory.join("bodies")).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_accepted_is_made_by_the_next_daemon_and_what_had_begun_once_more() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Running::open(directory.path(), settings(), true);
    for id in ["one", "two", "three"] {
        assert_eq!(kept.append(call(id), id.as_bytes()).await.unwrap(), Accepted::New);
    }
    let (first, loaded) = kept.next().await;
    assert_eq!((loaded.call.id.as_str(), first.attempts), ("one", 1));
    let (second, _) = kept.next().await;
    kept.end(&second, Ended::Done { result: None }).await;
    assert_eq!(kept.next().await.1.call.id, "three");
    // That it has begun is noted with whatever comes next.
    kept.ask(|reply| Order::Known { id: "three".into(), reply }).await;
    kept.kill().await;

    let mut kept = Running::open(directory.path(), settings(), true);
    let again = [kept.next().await, kept.next().await];
    let seen =
        again.each_ref().map(|(turn, loaded)| (loaded.call.id.clone(), turn.attempts, loaded.body.clone()));
    let body = |text: &'static str| Kept::Inline(bytes::Bytes::from_static(text.as_bytes()));
    assert_eq!(seen, [("one".into(), 2, body("one")), ("three".into(), 2, body("three"))]);
    assert_eq!(kept.board.lines().loads()[0].1.redelivered_total, 2);
    for (turn, _) in &again {
        kept.end(turn, Ended::Done { result: None }).await;
    }
    kept.kill().await;
    let kept = Running::open(directory.path(), settings(), true);
    assert!(kept.board.lines().loads().is_empty());
    kept.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_are_counted_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Running::open(directory.path(), settings(), true);
    kept.append(call("one"), b"").await.unwrap();
    for attempt in 1..=3 {
        let (turn, _) = kept.next().await;
        assert_eq!(turn.attempts, attempt);
        kept.end(&turn, Ended::Again { due: 1 }).await;
    }
    let (turn, _) = kept.next().await;
    kept.end(&turn, Ended::NotTaken { failure: Failure::default() }).await;
    kept.ask(|reply| Order::Known { id: "one".into(), reply }).await;
    kept.kill().await;
    let mut kept = Running::open(directory.path(), settings(), true);
    assert_eq!(kept.next().await.0.attempts, 4, "what nobody took was none");
    kept.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_are_files_that_go_with_their_calls() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Running::open(directory.path(), settings(), true);
    kept.limit.store(1, Ordering::Relaxed);
    let large = vec![7; 100_000];
    for id in ["one", "two", "three"] {
        kept.append(call(id), &large).await.unwrap();
    }
    assert_eq!(kept.files(directory.path()), 3);
    let (turn, loaded) = kept.next().await;
    assert_eq!(kept.spool.read_all(&loaded.body).await.unwrap(), large);
    kept.end(&turn, Ended::Done { result: None }).await;
    let (turn, _) = kept.next().await;
    assert_eq!(kept.files(directory.path()), 2);
    let cancelled =
        kept.ask(|reply| Order::Cancel { id: "three".into(), functions: vec![key()], reply }).await;
    assert_eq!((cancelled, kept.files(directory.path())), (1, 1));
    kept.kill().await;

    let mut kept = Running::open(directory.path(), settings(), true);
    let (again, loaded) = kept.next().await;
    assert_eq!((again.number, kept.spool.read_all(&loaded.body).await.unwrap()), (turn.number, large.into()));
    // The answer is large, too, and its callback is to be tried again; then it is the result.
    let mut writer = kept.spool.writer();
    writer.write(&[1; 70_000]).await.unwrap();
    let body = writer.finish().await.unwrap();
    let answer = Answer::new(http::StatusCode::OK, &http::HeaderMap::new(), 0.1, 1);
    let answered =
        Ended::Answered { answer: answer.clone(), body: Some(body.clone()), due: 1, times: 1, dead: false };
    kept.end(&again, answered).await;
    let (turn, loaded) = kept.next().await;
    assert_eq!((turn.task.clone(), loaded.answer), (Task::CallBack, Some((answer.clone(), body.clone(), 1))));
    assert_eq!(kept.files(directory.path()), 2);
    let result = Some(Resulted { answer: answer.clone(), body: Some(body.clone()), keep: 60_000 });
    kept.end(&turn, Ended::Done { result }).await;
    let ready = kept.ask(|reply| Order::Result { id: "two".into(), functions: vec![key()], reply }).await;
    assert_eq!(ready, Some(Some((answer, Some(body)))));
    assert_eq!(kept.files(directory.path()), 1, "the call's is gone, the result's is there");
    kept.kill().await;
    let kept = Running::open(directory.path(), settings(), true);
    assert_eq!(kept.files(directory.path()), 1);
    assert_eq!(kept.ask(|reply| Order::Known { id: "two".into(), reply }).await, [key()]);
    kept.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_more_than_may_be_and_a_function_has_its_share() {
    let directory = tempfile::tempdir().unwrap();
    let kept = Running::open(directory.path(), Settings { max_calls: 3, ..settings() }, true);
    kept.limit.store(0, Ordering::Relaxed);
    let large = vec![0; 1 << 20];
    kept.append(call("x"), &large).await.unwrap();
    assert!(kept.append(call("x"), b"").await.is_ok());
    let refused = kept.append(call("x"), &large).await;
    assert!(matches!(refused, Err(Refusal::Share)), "{refused:?}");
    assert_eq!(kept.files(directory.path()), 1, "what was refused leaves nothing");
    kept.append(call("x"), b"").await.unwrap();
    assert!(matches!(kept.append(call("x"), b"").await, Err(Refusal::Full)));
    kept.kill().await;
    let kept = Running::open(directory.path(), Settings { reserve: u64::MAX, ..settings() }, true);
    assert!(matches!(kept.append(call("x"), b"").await, Err(Refusal::DiskFull)));
    kept.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_functions_that_are_gone_are_gone_and_so_are_those_of_one_that_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let mut kept = Running::open(directory.path(), settings(), true);
    kept.append(call("one"), &vec![0; 100_000]).await.unwrap();
    let (turn, _) = kept.next().await;
    kept.orders.send(Order::Forget(key())).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), turn.cancelled.cancelled()).await.unwrap();
    kept.end(&turn, Ended::Cancelled).await;
    kept.append(call("two"), b"").await.unwrap();
    kept.kill().await;
    let kept = Running::open(directory.path(), settings(), false);
    let known = kept.ask(|reply| Order::Known { id: "two".into(), reply }).await;
    assert!(known.is_empty());
    kept.kill().await;
    let kept = Running::open(directory.path(), settings(), true);
    assert!(kept.board.lines().loads().is_empty());
    assert_eq!(kept.files(directory.path()), 0, "a body that no call has goes with the next start");
    kept.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_call_of_two_and_a_delay_is_kept_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let kept = Running::open(directory.path(), settings(), true);
    let keyed = |id: &str| {
        let key = Some("k".to_owned());
        call_with(id, Wishes { idempotency_key: key, delay: Some(3_600_000), ..Wishes::default() })
    };
    assert_eq!(kept.append(keyed("one"), b"").await.unwrap(), Accepted::New);
    assert_eq!(kept.append(keyed("two"), b"").await.unwrap(), Accepted::Again("one".into()));
    kept.kill().await;
    let mut kept = Running::open(directory.path(), settings(), true);
    assert_eq!(kept.append(keyed("three"), b"").await.unwrap(), Accepted::Again("one".into()));
    kept.append(call("now"), b"").await.unwrap();
    assert_eq!(kept.next().await.1.call.id, "now");
    let waits = kept.ask(|reply| Order::Result { id: "one".into(), functions: vec![key()], reply }).await;
    assert_eq!(waits, Some(None));
    kept.kill().await;
}
