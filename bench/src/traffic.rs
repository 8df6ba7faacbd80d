//! Traffic to measure a path with: one side that pours or knocks, one that takes it all.
//!
//! Built in because what is compared is the path, and the ends must be the same on every path. `knock` ends
//! each connection with a reset, so that no port lingers and none is used up.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no ADDRESS:PORT"))
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| format!("{text:?} is no number"))
}

/// `sink PORT`: takes connections one after another, and what comes over them.
pub fn sink(port: &str) -> Result<(), String> {
    let port: u16 = port.parse().map_err(|_| format!("{port:?} is no port"))?;
    let listener = TcpListener::bind(("0.0.0.0", port)).map_err(|e| format!("bind {port}: {e}"))?;
    let mut buffer = vec![0; 1 << 18];
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        while matches!(stream.read(&mut buffer), Ok(1..)) {}
    }
    Ok(())
}

/// `pour ADDRESS MILLISECONDS`: prints bytes per second.
pub fn pour(to: &str, time: &str) -> Result<(), String> {
    let time = milliseconds(time)?;
    let mut stream = TcpStream::connect(address(to)?).map_err(|e| format!("connect {to}: {e}"))?;
    let buffer = vec![0; 1 << 18];
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < time {
        sent += stream.write(&buffer).map_err(|e| format!("write: {e}"))?;
    }
    println!("{}", sent as f64 / began.elapsed().as_secs_f64());
    Ok(())
}

/// `knock ADDRESS MILLISECONDS`: prints connections per second.
pub fn knock(to: &str, time: &str) -> Result<(), String> {
    let (to, time) = (address(to)?, milliseconds(time)?);
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        let stream = TcpStream::connect(to).map_err(|e| format!("connect {to}: {e}"))?;
        let reset = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the pointer and length describe one linger that outlives the call.
        let done = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const reset).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        if done != 0 {
            return Err(format!("SO_LINGER: {}", std::io::Error::last_os_error()));
        }
        count += 1;
    }
    println!("{}", f64::from(count) / began.elapsed().as_secs_f64());
    Ok(())
}

/// `scatter IP COUNT`: one datagram each to COUNT ports, so that as many connections are tracked.
pub fn scatter(to: &str, count: &str) -> Result<(), String> {
    let count: u32 = count.parse().map_err(|_| format!("{count:?} is no number"))?;
    let ip: std::net::IpAddr = to.parse().map_err(|_| format!("{to:?} is no address"))?;
    let fail = |e: std::io::Error| format!("{to}: {e}");
    let mut socket = UdpSocket::bind("0.0.0.0:0").map_err(fail)?;
    for number in 0..count {
        let port = 1 + (number % 60_000) as u16;
        if port == 1 && number > 0 {
            socket = UdpSocket::bind("0.0.0.0:0").map_err(fail)?;
        }
        // Refusals of earlier ones arrive here.
        let _ = socket.send_to(b"x", (ip, port));
    }
    Ok(())
}
