//! Attaching and detaching many times: nothing is lost on the way.

use tokio::task::JoinSet;

use crate::support::{Host, on_host};

/// Attaches and detaches, `rounds` times in each of `lanes` at once, on a subnet with room for little more.
async fn churn(host: &Host, lanes: usize, rounds: usize) {
    let network = host.network(host.bridge("0.4.0", "10.99.0.0/28", &[]));
    let mut tasks = JoinSet::new();
    for lane in 0..lanes {
        let network = network.clone();
        tasks.spawn(async move {
            for round in 0..rounds {
                let id = format!("lane{lane}-{round}");
                network.attach(&id).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
                network.detach(&id).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        });
    }
    tasks.join_all().await;
    host.assert_empty("test");
}

/// The subnet has 13 addresses to give: a leak of one a round shows.
#[test]
fn addresses_are_given_back() {
    on_host(|host| async move { churn(&host, 2, 12).await });
}

#[test]
fn ipam_leaks_nothing_over_1000_rounds() {
    if std::env::var_os("ROOST_LONG_TESTS").is_none() {
        eprintln!("skipped: takes minutes; set ROOST_LONG_TESTS=1");
        return;
    }
    on_host(|host| async move { churn(&host, 4, 250).await });
}
