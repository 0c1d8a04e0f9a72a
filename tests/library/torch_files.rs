//! PyTorch's zip files: what is written is read back, and what is refused.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::generator::alone_with_the_generator;
use crate::torch_formats::legacy;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;
use vm_beautynet::models::weights::{StateDict, WeightsFile, save_torch};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// A zip file of these entries.
pub(crate) struct Archive {
    folder: TempDir,
}

impl Archive {
    pub(crate) fn new(entries: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut zip = ZipWriter::new(fs::File::create(folder.path().join("w.pth")).unwrap());
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, bytes) in entries {
            zip.start_file(*name, options).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        Self { folder }
    }

    pub(crate) fn pickle(pickle: &[u8]) -> Self {
        Self::new(&[("a/data.pkl", pickle), ("a/data/0", &[0; 16])])
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("w.pth")
    }

    /// Returns the one-line error of a file that must be refused.
    pub(crate) fn error(&self) -> String {
        let error = format!("{:#}", WeightsFile::open(&self.path()).unwrap_err());
        assert!(error.contains("w.pth") && !error.contains('\n'), "{error}");
        error
    }
}

/// Returns a pickle of a dictionary with one float tensor `x` of this shape, these strides and this
/// offset over a storage of `len` elements.
pub(crate) fn one_tensor(size: &[i64], stride: &[i64], offset: i64, len: i64) -> Vec<u8> {
    let mut out = b"\x80\x02}X\x01\0\0\0xctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    let integer = |out: &mut Vec<u8>, value: i64| {
        out.extend([0x8a, 8]);
        out.extend(value.to_le_bytes());
    };
    out.extend(b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpu");
    integer(&mut out, len);
    out.extend(b"tQ");
    integer(&mut out, offset);
    for list in [size, stride] {
        out.push(b'(');
        list.iter().for_each(|&n| integer(&mut out, n));
        out.push(b't');
    }
    out.extend(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

/// Returns a pickle that calls a class or function by its name.
fn named(module: &str, name: &str) -> Vec<u8> {
    [b"\x80", format!("\u{2}c{module}\n{name}\n)R.").as_bytes()].concat()
}

#[test]
fn written_tensors_are_read_back_bit_for_bit() {
    let _alone = alone_with_the_generator();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let tensors: Vec<(String, Tensor)> = [
        ("float", Tensor::randn([3, 4, 5], CPU)),
        ("double", Tensor::randn([7], (Kind::Double, Device::Cpu))),
        ("half", Tensor::randn([2, 2], CPU).to_kind(Kind::Half)),
        ("bfloat", Tensor::randn([2, 2], CPU).to_kind(Kind::BFloat16)),
        ("int", Tensor::from_slice(&[i64::MIN, -1, 0, i64::MAX])),
        ("scalar", Tensor::from(2.5f32)),
        ("empty", Tensor::zeros([0, 3], CPU)),
        ("strided", Tensor::randn([4, 6], CPU).transpose(0, 1)),
    ]
    .map(|(name, tensor)| (name.to_string(), tensor))
    .into();
    save_torch(&path, &tensors).unwrap();
    let mut file = WeightsFile::open(&path).unwrap();
    assert_eq!(file.shapes().len(), tensors.len());
    for (name, tensor) in &tensors {
        let read = file.tensor(name).unwrap();
        assert_eq!(read.kind(), tensor.kind(), "{name}");
        assert!(read.equal(tensor), "{name}");
    }
}

#[test]
fn the_tensor_that_the_test_writes_is_read() {
    let archive = Archive::pickle(&one_tensor(&[2, 2], &[2, 1], 0, 4));
    let mut file = WeightsFile::open(&archive.path()).unwrap();
    assert!(file.tensor("x").unwrap().equal(&Tensor::zeros([2, 2], CPU)));
}

#[test]
fn every_name_outside_the_table_is_refused_with_the_name() {
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("__builtin__", "getattr"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "EvilStorage"),
        ("numpy", "load"),
        ("collections", "namedtuple"),
        ("argparse", "ArgumentParser"),
        ("collections.OrderedDict", "fromkeys"),
    ] {
        let error = Archive::pickle(&named(module, name)).error();
        assert!(error.contains(&format!("{module}.{name}")), "{error}");
        // Also with the instruction of newer protocols.
        let mut pickle = vec![0x80, 4];
        for text in [module, name] {
            pickle.extend([0x8c, text.len() as u8]);
            pickle.extend(text.as_bytes());
        }
        pickle.extend(b"\x93)R.");
        let error = Archive::pickle(&pickle).error();
        assert!(error.contains(&format!("{module}.{name}")), "{error}");
    }
    let error = Archive::pickle(&named("os\u{1b}[2J", &"x".repeat(1000))).error();
    assert!(error.len() < 400 && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn plain_values_next_to_the_weights_are_ignored() {
    // {"best": numpy scalar, "set": set([1]), "epoch": 3, "model": {...}} as protocol 2 writes
    // them.
    let mut pickle = b"\x80\x02}X\x04\0\0\0bestcnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f8K\0K\x01\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tbc_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0latin1\x86R\x86Rs".to_vec();
    pickle.extend(
        b"X\x03\0\0\0setc__builtin__\nset\n](K\x01e\x85RsX\x05\0\0\0epochK\x03sX\x05\0\0\0model",
    );
    let model = one_tensor(&[2], &[1], 1, 4);
    pickle.extend(&model[2..model.len() - 1]);
    pickle.extend(b"s.");
    let archive = Archive::pickle(&pickle);
    let file = WeightsFile::open(&archive.path()).unwrap();
    assert_eq!(file.shapes().into_iter().collect::<Vec<_>>(), [("x".into(), vec![2])]);
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    let max = i64::MAX;
    for (size, stride, offset, len) in [
        (&[2, 3][..], &[3, 1][..], 0, 4),
        (&[4], &[1], 1, 4),
        (&[4], &[1], -1, 4),
        (&[1], &[1], max, 4),
        (&[2], &[-1], 1, 4),
        (&[-1], &[1], 0, 4),
        (&[2], &[max], 0, 4),
        (&[max, max], &[0, 0], 0, 4),
        (&[2, 2], &[2], 0, 4),
        (&[2], &[1], 0, 8),
        (&[2], &[1], 0, max),
        (&[2], &[1], 0, -4),
    ] {
        let error = Archive::pickle(&one_tensor(size, stride, offset, len)).error();
        assert!(error.contains("tensor x"), "{size:?}: {error}");
    }
}

#[test]
fn a_small_storage_repeated_over_a_huge_shape_takes_no_memory() {
    let shape = [1 << 20, 1 << 20];
    let archive = Archive::pickle(&one_tensor(&shape, &[0, 0], 0, 4));
    let mut file = WeightsFile::open(&archive.path()).unwrap();
    assert_eq!(file.tensor("x").unwrap().size(), shape);
}

#[test]
fn pickles_that_nest_loop_or_never_end_are_harmless() {
    // A million nested lists; a list that contains itself; a million values.
    let deep = [&b"\x80\x02"[..], &b"]".repeat(900_000), &b"a".repeat(899_999), b"."].concat();
    assert!(Archive::pickle(&deep).error().contains("no dictionary"));
    let looping = b"\x80\x02}q\0X\x05\0\0\0modelh\0s.";
    assert!(Archive::pickle(looping).error().contains("no state dict"));
    let too_many = [&b"\x80\x02"[..], &b"N".repeat(1_000_001)].concat();
    assert!(Archive::pickle(&too_many).error().contains("more than 1000000 values"));
    let too_long = vec![b'N'; 17 << 20];
    assert!(Archive::pickle(&too_long).error().contains("data.pkl"));
    // Each of a hundred thousand sets is a copy of one long list.
    let list = [&b"\x80\x02]q\0("[..], &b"K\x01".repeat(400_000), b"e0"].concat();
    let copies = b"cbuiltins\nset\nh\0\x85R0".repeat(100_000);
    let error = Archive::pickle(&[list, copies, b"N.".to_vec()].concat()).error();
    assert!(error.contains("no dictionary"), "{error}");
}

#[test]
fn damaged_pickles_are_errors() {
    for pickle in [
        &b""[..],
        b".",
        b"\x80",
        b"\x80\x02",
        b"\x80\x02R.",
        b"\x80\x02t.",
        b"\x80\x02h\x07.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02a.",
        b"\x80\x02NNs.",
        b"\x80\x02NQ.",
        b"\x80\x02(a.",
        b"\x80\x02X\xff\xff\xff\xffab.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.",
        b"\x80\x02ctorch\nno end",
        b"\x80\x02i.",
        b"\x80\x02K\x01)R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n)R.",
    ] {
        Archive::pickle(pickle).error();
    }
}

#[test]
fn archives_that_torch_save_does_not_write_are_refused_with_a_remedy() {
    let tensor = one_tensor(&[4], &[1], 0, 4);
    for (entries, words) in [
        (vec![("a/notes.txt", &b"hello"[..])], "no data.pkl"),
        (vec![("a/data.pkl", &tensor[..])], "no data/0"),
        (vec![("a/data.pkl", &tensor[..]), ("a/data/0", &[0; 12])], "12 bytes"),
        (
            vec![("a/data.pkl", &tensor[..]), ("a/data/0", &[0; 16]), ("a/byteorder", b"pdp")],
            "neither little nor big",
        ),
        (vec![("a/data.pkl", &tensor[..]), ("a/constants.pkl", b"")], "TorchScript"),
    ] {
        let error = Archive::new(&entries).error();
        assert!(error.contains(words), "{error}");
    }
    let archive = Archive::pickle(b"");
    for (bytes, words) in [
        (&[&[b'w'; 257][..], b"ustar", &[0; 300]].concat()[..], "before 0.1.10"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"PK\x03\x04 and nothing else", "cut short"),
    ] {
        fs::write(archive.path(), bytes).unwrap();
        assert!(archive.error().contains(words), "{}", archive.error());
    }
}

/// Puts a zip64 end record and its locator before the end record, as torch.save does for files of
/// any size.
fn insert_zip64_records(bytes: &mut Vec<u8>) {
    let end = bytes.len() - 22;
    assert!(bytes[end..].starts_with(b"PK\x05\x06"));
    let field = |at: usize, width: usize| -> u64 {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(&bytes[end + at..end + at + width]);
        u64::from_le_bytes(wide)
    };
    let (entries, size, offset) = (field(10, 2), field(12, 4), field(16, 4));
    let mut records = b"PK\x06\x06".to_vec();
    records.extend(44u64.to_le_bytes()); // bytes of this record that follow
    records.extend([0x1e, 3, 0x2d, 0]); // versions
    records.extend([0; 8]); // disks
    for value in [entries, entries, size, offset] {
        records.extend(value.to_le_bytes());
    }
    records.extend(b"PK\x06\x07\0\0\0\0");
    records.extend((end as u64).to_le_bytes());
    records.extend(1u32.to_le_bytes());
    assert_eq!(records.len(), 76);
    bytes.splice(end..end, records);
}

#[test]
fn a_file_with_a_stem_of_any_length_is_read() {
    let tensor = one_tensor(&[4], &[1], 0, 4);
    let values = [1f32, 2.0, 3.0, 4.0];
    let storage: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    for length in 1..50 {
        let stem = "s".repeat(length);
        let names = [format!("{stem}/data.pkl"), format!("{stem}/data/0")];
        let archive = Archive::new(&[(&names[0], &tensor[..]), (&names[1], &storage[..])]);
        let mut bytes = fs::read(archive.path()).unwrap();
        insert_zip64_records(&mut bytes);
        fs::write(archive.path(), bytes).unwrap();
        let read = WeightsFile::open(&archive.path()).and_then(|mut file| file.tensor("x"));
        let read = read.unwrap_or_else(|error| panic!("a stem of {length} characters: {error:#}"));
        assert_eq!(Vec::<f32>::try_from(read).unwrap(), values);
    }
}

/// Sets the fields of the central directory that say how an entry is stored.
fn edit_directory(bytes: &mut [u8], edit: impl Fn(&mut [u8])) {
    let starts: Vec<usize> =
        (0..bytes.len() - 4).filter(|&at| bytes[at..].starts_with(b"PK\x01\x02")).collect();
    for start in starts {
        edit(&mut bytes[start..start + 46]);
    }
}

#[test]
fn entries_that_unpack_to_more_than_their_size_are_refused() {
    let archive = Archive::pickle(&one_tensor(&[4], &[1], 0, 4));
    let original = fs::read(archive.path()).unwrap();
    // Bytes that are not compressed, or in a way that torch.load does not read.
    for (method, words) in [(8, "data.pkl cannot be read"), (12, "does not read either")] {
        let mut other = original.clone();
        edit_directory(&mut other, |entry| entry[10] = method);
        fs::write(archive.path(), other).unwrap();
        assert!(archive.error().contains(words), "{}", archive.error());
    }
    // An entry that claims four gigabytes.
    const STORED: usize = 20; // where the directory has an entry's length in the file
    const UNPACKED: usize = 24;
    for fields in [&[UNPACKED][..], &[STORED], &[STORED, UNPACKED]] {
        let mut long = original.clone();
        edit_directory(&mut long, |entry| {
            for &at in fields {
                entry[at..at + 4].copy_from_slice(&0xfff0_0000u32.to_le_bytes());
            }
        });
        fs::write(archive.path(), long).unwrap();
        archive.error();
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let original = fs::read(golden("checkpoint_plain.pth")).unwrap();
    for length in 0..original.len() {
        fs::write(&path, &original[..length]).unwrap();
        let error = format!("{:#}", WeightsFile::open(&path).unwrap_err());
        assert!(error.contains("w.pth") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn files_with_changed_bytes_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.pth");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut below = |sides: usize| random.random_range(0..sides);
    let mut read = 0;
    for (name, rounds) in [
        ("checkpoint_plain.pth", 6000),
        ("checkpoint_hostile.pth", 2000),
        ("the old format", 2000),
        ("checkpoint_training_style.pth", 300),
    ] {
        let original = match name {
            "the old format" => legacy(),
            _ => fs::read(golden(name)).unwrap(),
        };
        // The pickle is at the start, the directory at the end: values in between cannot be
        // wrong.
        let ends = 12_000.min(original.len() / 2);
        for _ in 0..rounds {
            let mut bytes = original.clone();
            for _ in 0..1 + below(4) {
                let at = below(2 * ends);
                let at = if at < ends { at } else { original.len() - 1 - (at - ends) };
                bytes[at] = below(256) as u8;
            }
            if below(8) == 0 {
                bytes.truncate(below(original.len()));
            }
            fs::write(&path, &bytes).unwrap();
            for wanted in [StateDict::Model, StateDict::Ema] {
                match WeightsFile::open_state_dict(&path, wanted) {
                    Ok(mut file) => {
                        for name in file.shapes().into_keys() {
                            let _ = file.tensor(&name);
                        }
                        read += 1;
                    }
                    Err(error) => assert!(!format!("{error:#}").contains('\n'), "{error:#}"),
                }
            }
        }
    }
    assert!(read > 500, "only {read} of the changed files could be read");
}
