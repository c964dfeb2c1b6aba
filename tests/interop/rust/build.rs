//! Tells the program which libp2p it is built with: the version that Cargo.lock pins.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("Cargo.lock stands beside Cargo.toml");
    let version = lock
        .split("[[package]]")
        .find(|package| package.contains("name = \"libp2p\"\n"))
        .and_then(|package| package.split("version = \"").nth(1))
        .and_then(|rest| rest.split('"').next())
        .expect("Cargo.lock pins libp2p");
    println!("cargo::rustc-env=LIBP2P_VERSION={version}");
}
