//! Calls that nobody waits for: taken over, made in their order, their answers called back; and what is not taken over.

use std::fs;

use hyper::{Method, StatusCode};
use roost_tests::{Answer, Callback, Config, Host, Image, Receiver, Registry, body_of, eventually};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One call at a time: what begins when is certain.
const SERIAL: &str = "concurrency = 1\nmax_body = \"512KiB\"\nmax_size = \"1MiB\"";

async fn host(registry: &Registry) -> Host {
    let image = registry.push(&Image::echo(), "echo", "1").await;
    // A replaced replica is told to stop soon: then the clock of echo ends.
    let host = Host::start_with(Config { queue: SERIAL, drain: "1s", ..Config::default() }).await;
    host.deploy("echo", &image).await;
    host
}

/// Hands a call over, and says how it was answered.
async fn hand_over(host: &Host, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = host.api.request(&Method::POST, &format!("/async-function/{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    host.api.try_send(request.body(body_of(body.to_owned())).unwrap()).await.unwrap()
}

/// Hands a call over that has to be taken, its answer wanted at `receiver`.
async fn taken(host: &Host, path: &str, body: &str, receiver: &Receiver, id: &str) {
    let headers = [("X-Callback-Url", receiver.url(&format!("/{id}"))), ("X-Call-Id", id.to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = hand_over(host, path, body, &headers).await;
    assert_eq!((answer.status, answer.text(), answer.header("x-call-id")), (StatusCode::ACCEPTED, "", id));
}

async fn cancel(host: &Host, id: &str) -> StatusCode {
    host.api.send(Method::DELETE, &format!("/async-function/{id}"), "").await.status
}

/// Makes the function busy until the call `id` is ended: the callback of a clock that never stops.
async fn keep_busy(host: &Host, function: &str, receiver: &mut Receiver, id: &str) -> Callback {
    taken(host, &format!("{function}/sse"), "", receiver, id).await;
    let mut clock = receiver.next().await;
    assert_eq!(clock.path, format!("/{id}"));
    assert!(
        clock.piece().await.unwrap().unwrap().starts_with(b"id: 1"),
        "the answer is passed on as it comes"
    );
    clock
}

fn logged(host: &Host, text: &str) -> bool {
    fs::read_to_string(host.daemon_log()).unwrap().contains(text)
}

#[tokio::test]
async fn a_call_is_made_as_it_came_and_its_answer_called_back() {
    let (registry, mut receiver) = (Registry::open().await, Receiver::open().await);
    let host = host(&registry).await;
    let url = receiver.url("/done?a=b");

    let headers = [("X-Callback-Url", url.as_str()), ("X-Own", "mine"), ("Content-Type", "text/x")];
    let answer = hand_over(&host, "echo.openfaas-fn/any/path", "a body", &headers).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::ACCEPTED, ""));
    let id = answer.header("x-call-id").to_owned();
    assert_eq!(id.len(), 36, "{id}");
    assert!(answer.header("x-start-time").parse::<u64>().is_ok(), "{:?}", answer.headers);
    assert!(answer.header("x-served-by").starts_with("roost/"), "{:?}", answer.headers);
    let callback = receiver.next().await;
    assert_eq!((callback.method.as_str(), callback.path.as_str()), ("POST", "/done?a=b"));
    for (name, value) in [
        ("x-call-id", id.as_str()),
        ("x-function-name", "echo.openfaas-fn"),
        ("x-function-status", "200"),
        ("content-type", "text/x"),
        ("content-length", "6"),
    ] {
        assert_eq!(callback.header(name), value, "{name} in {:?}", callback.headers);
    }
    let duration = callback.header("x-duration-seconds");
    assert!(duration.split_once('.').is_some_and(|(_, digits)| digits.len() == 6), "{duration}");
    assert!(duration.parse::<f64>().unwrap() < 60.0);
    assert!(callback.header("user-agent").starts_with("roost/"));
    assert_eq!(callback.text().await, "a body");

    // What the function saw.
    let headers = [("X-Callback-Url", url.as_str()), ("X-Own", "mine"), ("X-Call-Id", "my-id")];
    let answer = hand_over(&host, "echo/headers?q=1%20x", "", &headers).await;
    assert_eq!(answer.header("x-call-id"), "my-id");
    let seen = receiver.next().await.text().await;
    assert!(seen.starts_with("POST /headers?q=1%20x HTTP/1.1\n"), "{seen}");
    for line in [
        "x-own: mine\n",
        "x-call-id: my-id\n",
        "user-agent: roost/",
        "x-start-time: ",
        "x-forwarded-for: 127",
    ] {
        assert_eq!(seen.matches(line).count(), 1, "{line} in {seen}");
    }

    // A function calls another one back by the name that functions know this host by.
    taken(&host, "echo/first", "onwards", &receiver, "chained").await;
    receiver.next().await;
    let chain = [("X-Callback-Url", "http://gateway:8080/function/echo/second")];
    assert_eq!(hand_over(&host, "echo/first", "onwards", &chain).await.status, StatusCode::ACCEPTED);
    eventually("the second function of a chain", || async {
        host.log_lines("echo").await.iter().any(|line| line == "POST /second 200").then_some(())
    })
    .await;

    // Without a callback, with another method: seen in the function's log alone.
    let answer = host.api.send(Method::PUT, "/async-function/echo/put", "x").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    eventually("the call", || async {
        host.log_lines("echo").await.iter().any(|line| line == "PUT /put 200").then_some(())
    })
    .await;

    // As a person types it.
    let header = format!("X-Callback-Url: {url}");
    let id = host.roost_done(&["invoke", "echo", "--async", "-d", "typed", "-H", &header]).await;
    let callback = receiver.next().await;
    assert_eq!(callback.header("x-call-id"), id.trim());
    assert_eq!(callback.text().await, "typed");

    let unknown = "error finding function nobody.openfaas-fn: no such function on this host\n";
    let answer = hand_over(&host, "nobody", "", &[]).await;
    assert_eq!((answer.status, answer.text()), (StatusCode::NOT_FOUND, unknown));
    for callback in ["nonsense", "ftp://h/", "/function/echo"] {
        let answer = hand_over(&host, "echo", "", &[("X-Callback-Url", callback)]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{callback}");
        assert!(answer.text().starts_with("X-Callback-Url: "), "{}", answer.text());
    }
    let answer = hand_over(&host, "echo", &"x".repeat(512 * 1024 + 1), &[]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.text());
}

#[tokio::test]
async fn calls_keep_their_order_and_can_be_cancelled_and_take_no_more_memory_than_they_may() {
    let (registry, mut receiver) = (Registry::open().await, Receiver::open().await);
    let host = host(&registry).await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    host.deploy("other", &image).await;
    let mut clock = keep_busy(&host, "echo", &mut receiver, "clock").await;
    for id in ["one", "two", "three", "four"] {
        taken(&host, "echo", id, &receiver, id).await;
    }
    assert_eq!(cancel(&host, "two").await, StatusCode::ACCEPTED);
    assert_eq!(cancel(&host, "two").await, StatusCode::NOT_FOUND);
    assert_eq!(cancel(&host, "echo").await, StatusCode::NOT_FOUND, "a function's name is no call's id");

    let large = "x".repeat(500 * 1024);
    taken(&host, "echo", &large, &receiver, "large").await;
    // One function does not have all the memory.
    let answer = hand_over(&host, "echo", &large, &[]).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "10"));
    assert!(answer.text().contains("those of one function"), "{}", answer.text());
    taken(&host, "other", &large, &receiver, "other").await;
    assert_eq!(receiver.next().await.text().await.len(), large.len());
    assert_eq!(cancel(&host, "large").await, StatusCode::ACCEPTED);
    taken(&host, "echo", &large, &receiver, "after").await;

    assert!(receiver.is_quiet(), "one at a time");
    assert_eq!(cancel(&host, "clock").await, StatusCode::ACCEPTED);
    let broken = async {
        while clock.piece().await?.is_some() {}
        Ok::<_, hyper::Error>(())
    }
    .await;
    assert!(broken.is_err(), "a callback that is cut off does not look whole");
    for id in ["one", "three", "four"] {
        let callback = receiver.next().await;
        assert_eq!((callback.path.as_str(), callback.header("x-call-id")), (format!("/{id}").as_str(), id));
        assert_eq!(callback.text().await, id);
    }
    assert_eq!(receiver.next().await.text().await.len(), large.len());

    // With the function goes what waits for it; a new function of the name begins with none of it.
    keep_busy(&host, "echo", &mut receiver, "clock").await;
    for id in ["five", "six"] {
        taken(&host, "echo", id, &receiver, id).await;
    }
    host.remove("echo").await;
    eventually("the calls to be dropped", || async {
        logged(&host, "echo.openfaas-fn: 2 queued calls were dropped with it").then_some(())
    })
    .await;
    host.deploy("echo", &registry.push(&Image::echo(), "echo", "2").await).await;
    taken(&host, "echo", "seven", &receiver, "seven").await;
    assert_eq!(receiver.next().await.path, "/seven");

    // A function that is gone when the body is there takes nothing over.
    let mut begun = TcpStream::connect(("127.0.0.1", host.port())).await.unwrap();
    let head =
        "POST /async-function/other HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    begun.write_all(head.as_bytes()).await.unwrap();
    let mut asked = [0; 25];
    begun.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    host.remove("other").await;
    begun.write_all(b"hi").await.unwrap();
    let mut answer = [0; 12];
    begun.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 404");
}

#[tokio::test]
async fn what_functions_ask_of_callers_holds_for_cancelling_and_for_callbacks() {
    let (registry, mut receiver) = (Registry::open().await, Receiver::open().await);
    let host = host(&registry).await;
    let image = registry.push(&Image::echo(), "echo", "1").await;
    let closed = |annotations| json!({ "service": "closed", "image": image, "annotations": annotations });
    host.post_function(&closed(json!({}))).await;
    host.ready("closed").await;
    let mut clock = keep_busy(&host, "closed", &mut receiver, "clock").await;
    taken(&host, "closed", "mine", &receiver, "clock").await;
    host.put_function(&closed(json!({ "roost.internal": "true" }))).await;
    assert_eq!(hand_over(&host, "closed", "", &[]).await.status, StatusCode::NOT_FOUND);
    let unknown = host.api.send(Method::DELETE, "/async-function/nothing", "").await;
    let refused = host.api.send(Method::DELETE, "/async-function/clock", "").await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(refused.text(), unknown.text().replace("nothing", "clock"));
    while clock.piece().await.expect("it ends with its replica, it is not cut off").is_some() {}
    assert_eq!(receiver.next().await.text().await, "mine");

    // Nor does a callback find a way in, and one by the name is asked as all others are.
    let seen = host.api.send(Method::POST, "/function/echo/headers", "").await;
    let address = seen.text().lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let address = address.rsplit_once(':').unwrap().0.to_owned();
    let parts: Vec<u32> = address.split('.').map(|part| part.parse().unwrap()).collect();
    let number = parts.iter().fold(0, |number, part| number << 8 | part);
    for spelled in [address.clone(), format!("[::ffff:{address}]"), number.to_string()] {
        let url = format!("http://{spelled}:8080/");
        let answer = hand_over(&host, "echo", "", &[("X-Callback-Url", &url)]).await;
        let why = format!("X-Callback-Url: {address} is the address of a function");
        assert_eq!(
            (answer.status, answer.text().starts_with(&why)),
            (StatusCode::BAD_REQUEST, true),
            "{url}"
        );
    }
}

#[tokio::test]
async fn calls_outlast_deploys_and_missing_replicas_and_the_end_of_the_daemon() {
    let (registry, mut receiver) = (Registry::open().await, Receiver::open().await);
    let mut host = host(&registry).await;
    // No image yet: there is nobody to take it.
    let image = registry.push(&Image::echo(), "late", "1").await;
    let missing = format!("{image}-not-there");
    host.post_function(&json!({ "service": "late", "image": missing })).await;
    host.status("late", "Failed", |status| status["phase"] == "Failed").await;
    taken(&host, "late", "first", &receiver, "first").await;
    taken(&host, "late", "second", &receiver, "second").await;

    // At work while a deploy happens: what is at the old replica ends there, what waits goes to the new one.
    let mut clock = keep_busy(&host, "echo", &mut receiver, "clock").await;
    taken(&host, "echo/headers", "", &receiver, "behind").await;
    let newer = registry.push(&Image::echo(), "echo", "2").await;
    host.put_function(&json!({ "service": "echo", "image": newer })).await;
    while clock.piece().await.expect("the clock ends, it is not cut off").is_some() {}
    assert_eq!(receiver.next().await.path, "/behind");

    assert!(receiver.is_quiet());
    host.put_function(&json!({ "service": "late", "image": image })).await;
    for id in ["first", "second"] {
        let callback = receiver.next().await;
        assert_eq!(
            (callback.path.as_str(), callback.header("x-function-status")),
            (format!("/{id}").as_str(), "200")
        );
        assert_eq!(callback.text().await, id);
    }

    // One that would never end, and some that wait: the next daemon makes all of them, also the one that had begun.
    keep_busy(&host, "echo", &mut receiver, "clock").await;
    taken(&host, "echo", "", &receiver, "behind").await;
    let ids: Vec<String> = (0..5).map(|number| format!("call-{number}")).collect();
    for id in &ids {
        taken(&host, "late", id, &receiver, id).await;
    }
    host.terminate();
    host.ended().await;
    assert!(logged(&host, "queued calls had not ended: the next daemon makes them again"));
    host.start_daemon().await;
    let mut made = Vec::new();
    while made.len() < 3 || !["clock", "call-4"].iter().all(|last| made.iter().any(|made| made == last)) {
        made.push(receiver.next().await.path.trim_start_matches('/').to_owned());
    }
    made.retain(|made| made != "clock");
    assert!(made.is_sorted(), "in their order: {made:?}");
    assert_eq!(cancel(&host, "clock").await, StatusCode::ACCEPTED);
    assert_eq!(receiver.next().await.path, "/behind");
}
