use streams::{Options, Server};
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let data = std::env::args().nth(1).unwrap();
    let mut o = Options::new(data);
    o.controller.set_port(std::env::args().nth(2).and_then(|p| p.parse().ok()).unwrap_or(0));
    o.segments.set_port(std::env::args().nth(3).and_then(|p| p.parse().ok()).unwrap_or(0));
    let server = Server::bind(o).await.unwrap();
    let (c, s) = server.addresses().unwrap();
    println!("{c} {s}");
    let (tx, rx) = tokio::sync::watch::channel(false);
    tokio::spawn(async move { std::future::pending::<()>().await; drop(tx) });
    server.run(rx).await.unwrap();
}
