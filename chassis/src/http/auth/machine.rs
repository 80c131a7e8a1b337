//! Names of this machine.

use std::net::IpAddr;

use axum::http::uri::Authority;

/// Whether a `Host` means this machine wherever it is said.
pub(super) fn means_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        Err(_) => {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            // RFC 6761, section 6.3.
            name == "localhost" || name.ends_with(".localhost")
        }
    }
}
