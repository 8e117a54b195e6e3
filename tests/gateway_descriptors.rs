//! Few file descriptors for all doors of a receiver together: a process of its own, because they are the whole process's.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use seawall::node::{Admin, HttpConfig, HttpGateway, LinesConfig, LinesGateway, Receiver, Server, ServerConfig};
use seawall::receiver::ReceiverConfig;
use seawall::{Config, Log};
use tokio::net::TcpListener;

#[test]
fn gateways_and_server_leave_descriptors_to_the_log_together() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let log = Log::open(dir.path(), Config::default()).unwrap().0;
    let (receiver, driver, _) = Receiver::open(log, "test", ReceiverConfig::default()).unwrap();
    runtime.spawn(driver.run());
    let bind = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let (for_http, for_lines, for_admin) = (bind(), bind(), bind());
    let server = runtime
        .block_on(async { Server::bind(receiver.clone(), ServerConfig::new(([127, 0, 0, 1], 0).into())).unwrap() });
    let of = |listener: &TcpListener| listener.local_addr().unwrap();
    let (http, lines, admin) = (of(&for_http), of(&for_lines), of(&for_admin));
    let (wire, watch) = (server.addresses()[0], server.watch());

    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(open + 64 + 40);
    setrlimit(Resource::Nofile, limit).unwrap();
    runtime.spawn(server.run(std::future::pending()));
    let lines_gateway = LinesGateway::new(receiver.clone(), LinesConfig::default()).unwrap();
    let lines_watch = lines_gateway.watch();
    runtime.spawn(lines_gateway.serve(for_lines, std::future::pending()));
    let gateway = HttpGateway::new(receiver.clone(), HttpConfig::default()).unwrap();
    runtime.spawn(gateway.serve(for_http, std::future::pending()));
    let admin_port = Admin::new();
    admin_port.ready(receiver);
    runtime.spawn(admin_port.serve(for_admin, std::future::pending()));
    assert_eq!(get(admin, "/readyz"), 200);

    // Each takes a second descriptor for its own end.
    let peers = |address, count| (0..count).map(|_| TcpStream::connect(address).unwrap()).collect::<Vec<_>>();
    let connections = || watch.stats().connections + lines_watch.stats().connections;
    let of_http = peers(http, 15);
    // The gateway does not tell: the last of them is served.
    wait("HTTP is served", || get_on(&of_http[14], "/v1/streams/test/sources/nobody") == 404);
    let of_wire = peers(wire, 15);
    wait("the server has its own", || connections() == 15);
    let of_lines = peers(lines, 15);
    wait("lines have begun", || connections() >= 20);
    std::thread::sleep(Duration::from_millis(300));
    let taken = 15 + connections();
    // A file or two may have been opened or closed between counting them and listening; each for itself takes 45.
    assert!((36..=42).contains(&taken), "{taken} connections where there are descriptors for 40");
    // Whoever wants to know what is wrong is let in.
    assert_eq!(get(admin, "/readyz"), 200);
    // What one door gives back another may take.
    drop(of_http);
    wait("what HTTP gave back is taken", || connections() == 30);
    drop((of_wire, of_lines));
    wait("all have left", || connections() == 0);
    assert_eq!(get(http, "/v1/streams/test/sources/nobody"), 404);
}

fn get(address: SocketAddr, path: &str) -> u16 {
    get_on(&TcpStream::connect(address).unwrap(), path)
}

fn get_on(mut stream: &TcpStream, path: &str) -> u16 {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let mut had = 0;
    while !answer[..had].windows(4).any(|end| end == b"\r\n\r\n") {
        had += stream.read(&mut answer[had..]).unwrap();
    }
    std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap()
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let by = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < by, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
