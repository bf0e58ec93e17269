//! Calls that nobody waits for. How they are made is for `tests/async_calls.rs`.

use roost_tests::{Api, eventually};

use crate::support::{IMAGE, Table, empty, error, host, proxied};

#[tokio::test]
async fn calls_for_later_are_taken_or_refused_by_the_contract() {
    let host = host().await;
    host.deploy("echo", IMAGE).await;
    // Nobody needs a password for them, either.
    let mut t = Table::of(&Api::new(host.port(), None));
    let taken = || proxied(empty(202));
    t.row("POST /async-function/echo", "one", taken()).await;
    t.row("POST /async-function/echo.openfaas-fn/two?q=1", "", taken()).await;
    t.header("x-call-id", "mine");
    t.row("POST /async-function/echo/three", "", taken().with("x-call-id", "mine")).await;
    t.header("x-callback-url", "http://gateway:8080/function/echo/four");
    t.row("POST /async-function/echo", "four", taken()).await;
    // Ours: with each method that a function may be called with.
    for method in ["PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD"] {
        t.row(&format!("{method} /async-function/echo/five"), "", taken()).await;
    }
    t.row("TRACE /async-function/echo", "", empty(405)).await;

    let unknown = |text: &str| proxied(error(404, text)).with("x-openfaas-internal", "proxy");
    let nobody = || unknown("error finding function nobody.openfaas-fn: no such function on this host\n");
    t.row("POST /async-function/nobody", "lost", nobody()).await;
    t.row("POST /async-function/nobody.openfaas-fn/path", "lost", nobody()).await;
    let no_call = unknown("no call 5f8c is queued or running here\n");
    t.row("DELETE /async-function/5f8c", "", no_call).await;
    // One that would never end is ended, whatever its id looks like.
    for (id, path) in [("5f8c-2", "5f8c-2"), ("a/b: c?", "a%2Fb:%20c%3F"), ("ä", "%C3%A4")] {
        t.header("x-call-id", id);
        t.row("POST /async-function/echo/sse", "", taken().with("x-call-id", id)).await;
        t.row(&format!("DELETE /async-function/{path}"), "", empty(202)).await;
    }
    t.row("DELETE /async-function/a:b", "", unknown("no call a:b is queued or running here\n")).await;
    t.row("POST /async-function/a:b", "", error(404, "404 page not found\n")).await;
    for (url, why) in [
        ("gateway:8080/function/echo", "expected http:// or https://, not gateway:"),
        ("ftp://a/b", "expected http:// or https://, not ftp:"),
        ("/function/echo", "relative URL without a base"),
    ] {
        t.header("x-callback-url", url);
        let refused = proxied(error(400, &format!("X-Callback-Url: {why}\n")));
        t.row("POST /async-function/echo", "x", refused).await;
    }

    eventually("all that was taken is done", || async {
        let lines = host.log_lines("echo").await;
        let all = ["POST / 200", "POST /two 200", "POST /three 200", "POST /four 200", "PATCH /five 200"];
        all.iter().all(|line| lines.iter().any(|is| is == line)).then_some(())
    })
    .await;
}
