//! The statistics against scipy's values and against populations whose metrics are known.

use std::f64::consts::PI;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use vm_beautynet::eval::metrics::{Metric, ScoredImages};
use vm_beautynet::eval::predictions::Predictions;
use vm_beautynet::eval::statistics::{
    Bootstrap, BootstrapDistribution, Difference, MetricOverSeeds, MetricsWithCi,
};

/// Ratings with ties, and a model's predictions of them.
const TARGETS: [f64; 24] = [
    2.4, 2.1, 2.8, 3.3, 3.8, 3.1, 2.6, 2.5, 3.5, 4.1, 3.2, 2.1, 2.3, 4.1, 3.1, 1.8, 2.9, 2.2, 2.6,
    2.7, 2.5, 3.4, 3.0, 2.6,
];
const FIRST: [f64; 24] = [
    2.66, 2.57, 2.26, 3.15, 3.3, 3.02, 2.23, 2.61, 3.39, 3.77, 2.79, 2.14, 2.06, 3.41, 3.16, 1.65,
    3.33, 2.61, 1.98, 2.86, 2.21, 3.33, 3.02, 1.98,
];

fn predictions(values: &[f64]) -> Predictions {
    Predictions {
        images: (0..values.len()).map(|i| format!("{i:03}")).collect(),
        targets: TARGETS[..values.len()].to_vec(),
        predictions: values.to_vec(),
        ..Predictions::default()
    }
}

#[test]
fn intervals_are_scipys_up_to_the_resampling() {
    // scipy 1.17.1: bootstrap(method="BCa", paired=True), 20,000 resamples and more, means over
    // three seeds. The ends vary with the resamples by about a tenth of these tolerances in scipy,
    // those of the rank correlation by a third.
    let measured = MetricsWithCi::new(&predictions(&FIRST)).unwrap();
    for (metric, lo, hi, tolerance) in [
        (Metric::Pc, 0.71019, 0.91907, 0.004),
        (Metric::Mae, 0.22069, 0.38083, 0.004),
        (Metric::Rmse, 0.28539, 0.43905, 0.004),
        (Metric::Srcc, 0.64108, 0.93923, 0.01),
    ] {
        let ci = measured.interval(metric).unwrap();
        assert!(
            (ci.lo - lo).abs() < tolerance && (ci.hi - hi).abs() < tolerance,
            "{metric:?}: {ci:?}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_intervals_on_any_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| MetricsWithCi::new(&predictions(&FIRST)).unwrap())
    };
    assert_eq!(on(1), on(3));
}

#[test]
fn undefined_metrics_have_no_interval() {
    let constant = MetricsWithCi::new(&predictions(&[3.0; 24])).unwrap();
    assert!(constant.pc_ci.is_none() && constant.srcc_ci.is_none());
    assert!(constant.mae_ci.is_some() && constant.rmse_ci.is_some());
    let mut broken = FIRST;
    broken[3] = f64::NAN;
    assert!(MetricsWithCi::new(&predictions(&broken)).unwrap().mae_ci.is_none());
    let json = serde_json::to_value(constant).unwrap();
    assert!(json["pc"].is_null() && json["pc_ci"].is_null());
    assert_eq!(json["mae_ci"].as_array().unwrap().len(), 2);
    assert_eq!(json["n"], 24);
    let none = MetricsWithCi::new(&predictions(&[])).unwrap();
    assert!(none.mae_ci.is_none());
}

/// Standard normal numbers (Box and Muller).
struct Normal(ChaCha8Rng);

impl Normal {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn sample(&mut self) -> f64 {
        let mut unit = || ((self.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (-2.0 * unit().ln()).sqrt() * (2.0 * PI * unit()).cos()
    }

    fn sample_n(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.sample()).collect()
    }

    /// Targets plus errors of this standard deviation.
    fn predict(&mut self, targets: &[f64], sd: f64) -> Vec<f64> {
        targets.iter().map(|target| target + sd * self.sample()).collect()
    }
}

/// About the size of a test set.
const IMAGES: usize = 200;

fn resample(images: &[ScoredImages], seed: u64) -> Vec<BootstrapDistribution> {
    let bootstrap = Bootstrap { resamples: 1000, seed };
    bootstrap.resample(images).unwrap()
}

/// Standard deviation of the errors that gives this PC with targets of standard deviation 1.
fn error_sd(pc: f64) -> f64 {
    (1.0 / (pc * pc) - 1.0).sqrt()
}

#[test]
fn an_interval_covers_the_truth_in_93_to_97_of_100_data_sets() {
    const DATA_SETS: usize = 2000;
    let pc: f64 = 0.8;
    let sd = error_sd(pc);
    // Of the bivariate normal population.
    let truth = [pc, sd * (2.0 / PI).sqrt(), sd, 6.0 / PI * (pc / 2.0).asin()];
    let mut covered = [0; 4];
    for data_set in 0..DATA_SETS {
        let mut normal = Normal::new(data_set as u64);
        let targets = normal.sample_n(IMAGES);
        let images = ScoredImages::new(&normal.predict(&targets, sd), &targets).unwrap();
        let distributions = resample(&[images], data_set as u64);
        for metric in Metric::ALL {
            let ci = distributions[0].interval(metric).unwrap();
            covered[metric as usize] += usize::from(ci.contains(truth[metric as usize]));
        }
    }
    for metric in Metric::ALL {
        let fraction = covered[metric as usize] as f64 / DATA_SETS as f64;
        println!("{}: covered in {:.1} %", metric.name(), 100.0 * fraction);
        assert!((0.93..=0.97).contains(&fraction), "{metric:?}: {fraction}");
    }
}

#[test]
fn a_paired_interval_covers_the_difference_and_p_errs_as_often_as_it_says() {
    const DATA_SETS: usize = 1500;
    let (sd, better) = (error_sd(0.8), error_sd(0.83));
    let truth = [0.03, (better - sd) * (2.0 / PI).sqrt(), better - sd];
    let (mut covered, mut wrong, mut found) = ([0; 3], [0; 4], 0);
    for data_set in 0..DATA_SETS {
        let mut normal = Normal::new(1_000_000 + data_set as u64);
        let targets = normal.sample_n(IMAGES);
        let models: Vec<ScoredImages> = [sd, sd, better]
            .iter()
            .map(|sd| ScoredImages::new(&normal.predict(&targets, *sd), &targets).unwrap())
            .collect();
        let distributions = resample(&models, data_set as u64);
        for metric in Metric::ALL {
            let equal = Difference::new(&distributions[1], &distributions[0], metric);
            wrong[metric as usize] += usize::from(equal.p.unwrap() <= 0.05);
            let differs = Difference::new(&distributions[2], &distributions[0], metric);
            // p and interval say the same.
            let (p, ci) = (differs.p.unwrap(), differs.ci.unwrap());
            if !(0.04..0.06).contains(&p) {
                assert_eq!(p < 0.05, !ci.contains(0.0), "{differs:?}");
            }
            if let Some(truth) = truth.get(metric as usize) {
                covered[metric as usize] += usize::from(ci.contains(*truth));
            }
            found += usize::from(metric == Metric::Rmse && p <= 0.05);
        }
    }
    let fraction = |count: usize| count as f64 / DATA_SETS as f64;
    println!(
        "covered {:?}, falsely different {:?}, truly different {}",
        covered.map(fraction),
        wrong.map(fraction),
        fraction(found)
    );
    for covered in covered {
        assert!((0.93..=0.97).contains(&fraction(covered)));
    }
    for wrong in wrong {
        assert!((0.03..=0.07).contains(&fraction(wrong)));
    }
    assert!(fraction(found) > 0.1, "a difference is found in {} only", fraction(found));
}

/// How often two equal models, whose runs vary with the seed, differ with p of at most 0.05: over
/// images alone, and over images and seeds.
fn falsely_different(seeds: u64, seed_sd: f64) -> [f64; 2] {
    const DATA_SETS: usize = 150;
    const FEW_IMAGES: usize = 60;
    let numbers: Vec<u64> = (0..seeds).collect();
    let mut wrong = [0; 2];
    for data_set in 0..DATA_SETS {
        let mut normal = Normal::new(2_000_000 + data_set as u64);
        let targets = normal.sample_n(FEW_IMAGES);
        let bootstrap = Bootstrap { resamples: 400, seed: data_set as u64 };
        let mut model = || -> Vec<ScoredImages> {
            let run = |_| {
                let sd = 0.5 * (seed_sd * normal.sample()).exp();
                ScoredImages::new(&normal.predict(&targets, sd), &targets).unwrap()
            };
            (0..seeds).map(run).collect()
        };
        let [a, b] = [model(), model()].map(|runs| bootstrap.resample(&runs).unwrap());
        let mean = |runs: &[BootstrapDistribution]| BootstrapDistribution::mean(runs).unwrap();
        let over = |runs: &[BootstrapDistribution]| bootstrap.over_seeds(runs, &numbers).unwrap();
        for (wrong, [a, b]) in wrong.iter_mut().zip([[mean(&a), mean(&b)], [over(&a), over(&b)]]) {
            let p = Difference::new(&a, &b, Metric::Rmse).p.unwrap();
            *wrong += usize::from(p <= 0.05);
        }
    }
    wrong.map(|count| count as f64 / DATA_SETS as f64)
}

#[test]
fn equal_models_whose_seeds_vary_seldom_differ_once_seeds_are_resampled() {
    let [images, both] = falsely_different(3, 0.2);
    println!("falsely different in {images} over images, {both} over both");
    assert!(images > 0.3 && both <= 0.09, "{images} over images, {both} over both");
}

#[test]
fn few_seeds_are_not_resampled_and_equal_ones_are_resampled_alike() {
    let mut normal = Normal::new(5);
    let targets = normal.sample_n(IMAGES);
    let runs: Vec<ScoredImages> = [0.2, 0.4, 0.6]
        .iter()
        .map(|sd| ScoredImages::new(&normal.predict(&targets, *sd), &targets).unwrap())
        .collect();
    let bootstrap = Bootstrap { resamples: 1000, seed: 1 };
    let distributions = bootstrap.resample(&runs).unwrap();
    let width = |of: BootstrapDistribution| {
        let ci = of.interval(Metric::Rmse).unwrap();
        ci.hi - ci.lo
    };
    let mean = |of: &[BootstrapDistribution]| width(BootstrapDistribution::mean(of).unwrap());
    let over =
        |of: &[BootstrapDistribution], seeds: &[u64]| bootstrap.over_seeds(of, seeds).unwrap();
    assert_eq!(width(over(&distributions[..2], &[1, 2])), mean(&distributions[..2]));
    assert!(width(over(&distributions, &[1, 2, 3])) > 2.0 * mean(&distributions));
    let [same, other] = [[1, 2, 3], [4, 5, 6]].map(|seeds| over(&distributions, &seeds));
    let again = over(&distributions, &[1, 2, 3]);
    assert_eq!(Difference::new(&same, &again, Metric::Pc).p, Some(1.0));
    let apart = Difference::new(&same, &other, Metric::Pc).ci.unwrap();
    assert!(apart.hi - apart.lo > 0.0);
    assert!(bootstrap.over_seeds(&[], &[]).is_none());
}

#[test]
fn two_equal_models_differ_by_nothing() {
    let images = ScoredImages::new(&FIRST, &TARGETS).unwrap();
    let distributions = resample(&[images.clone(), images], 1);
    let difference = Difference::new(&distributions[0], &distributions[1], Metric::Pc);
    assert_eq!(difference.difference, Some(0.0));
    assert!(difference.ci.unwrap().contains(0.0));
    assert_eq!(difference.p, Some(1.0));
}

#[test]
fn variation_over_seeds_is_separate_from_that_over_images() {
    let mut normal = Normal::new(4);
    let targets = normal.sample_n(IMAGES);
    // Runs that err in the same way on the same images: seeds add little, images much.
    let shared = normal.predict(&targets, 0.5);
    let seeds: Vec<ScoredImages> = (0..5)
        .map(|_| ScoredImages::new(&normal.predict(&shared, 0.01), &targets).unwrap())
        .collect();
    let alike = MetricOverSeeds::new(&resample(&seeds, 1), Metric::Rmse);
    let width = |over: &MetricOverSeeds| over.ci_over_images.map(|ci| ci.hi - ci.lo).unwrap();
    assert!(alike.sd_over_seeds.unwrap() < 0.05 * width(&alike), "{alike:?}");
    // Runs of different quality: seeds add much.
    let seeds: Vec<ScoredImages> = [0.2, 0.4, 0.6, 0.8, 1.0]
        .iter()
        .map(|sd| ScoredImages::new(&normal.predict(&targets, *sd), &targets).unwrap())
        .collect();
    let unlike = MetricOverSeeds::new(&resample(&seeds, 1), Metric::Rmse);
    assert!(unlike.sd_over_seeds.unwrap() > width(&unlike), "{unlike:?}");
    assert_eq!(unlike.seeds, 5);
    let one = MetricOverSeeds::new(&resample(&seeds[..1], 1), Metric::Rmse);
    assert_eq!(one.sd_over_seeds, None);
}
