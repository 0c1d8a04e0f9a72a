//! A forward pass over a part of a batch draws what the whole batch would.

use std::ops::Range;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor, nn};
use vm_beautynet::config::HeadConfig;
use vm_beautynet::models::batch_part::with_part;
use vm_beautynet::models::head::Regressor;
use vm_beautynet::models::layers::DropPath;

#[test]
fn parts_drop_what_the_whole_batch_would() {
    let _alone = alone_with_the_generator();
    let variables = nn::VarStore::new(Device::Cpu);
    let config = HeadConfig { dropout: 0.3, ..HeadConfig::default() };
    let regressor = Regressor::new(&variables.root(), 40, &config);
    let dropped = |rows: Range<usize>| {
        tch::manual_seed(5);
        let x = Tensor::ones([rows.len() as i64, 40], (Kind::Float, Device::Cpu));
        with_part(&rows, 6, || regressor.forward(&DropPath(0.5).forward(x, true), true))
    };
    let whole = dropped(0..6);
    for parts in [vec![0..3, 3..6], vec![0..1, 1..5, 5..6]] {
        let parts: Vec<Tensor> = parts.into_iter().map(dropped).collect();
        let difference = (Tensor::cat(&parts, 0) - &whole).abs().max();
        assert!(difference.double_value(&[]) < 1e-6);
    }
    // The images' draws differ: a part that drew for itself alone would not have the whole's.
    let itself = with_part(&(0..3), 3, || dropped(3..6));
    let first = dropped(0..3);
    assert!((itself - first).abs().max().double_value(&[]) > 1e-3);
}
