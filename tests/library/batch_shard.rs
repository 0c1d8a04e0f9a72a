//! A forward pass over a shard of a batch drops what one over the global batch would.

use std::ops::Range;

use crate::generator::alone_with_the_generator;
use tch::{Device, Kind, Tensor, nn};
use vm_beautynet::config::HeadConfig;
use vm_beautynet::models::ForwardContext;
use vm_beautynet::models::head::Regressor;
use vm_beautynet::models::layers::DropPath;

#[test]
fn shards_drop_what_the_global_batch_would() {
    let _alone = alone_with_the_generator();
    let variables = nn::VarStore::new(Device::Cpu);
    let config = HeadConfig { dropout: 0.3, ..HeadConfig::default() };
    let regressor = Regressor::new(&variables.root(), 40, &config, 1);
    let dropped = |rows: Range<usize>, ctx: ForwardContext| {
        tch::manual_seed(5);
        let x = Tensor::ones([rows.len() as i64, 40], (Kind::Float, Device::Cpu));
        let factors = DropPath(0.5).factors(&x, ctx).unwrap();
        regressor.forward(&(x * factors), ctx)
    };
    let train = ForwardContext::train();
    let shard = |rows: Range<usize>| dropped(rows.clone(), train.with_batch_shard(&rows, 6));
    let global = dropped(0..6, train);
    for shards in [vec![0..3, 3..6], vec![0..1, 1..5, 5..6]] {
        let shards: Vec<Tensor> = shards.into_iter().map(shard).collect();
        let difference = (Tensor::cat(&shards, 0) - &global).abs().max();
        assert!(difference.double_value(&[]) < 1e-6);
    }
    // A shard that sampled for its own images alone would not drop what the global batch does.
    let [second, first] = [shard(3..6), shard(0..3)];
    assert!((second - first).abs().max().double_value(&[]) > 1e-3);
}
