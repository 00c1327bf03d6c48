//! weft-lab
fn main() {}
