//! Every file that torch.load and Python's zipfile read is read, and what is hostile in it costs
//! neither time nor memory.

use std::fs;
use std::io::Write;

use tch::Tensor;
use vm_beautynet::models::weights::{StateDict, WeightsFile};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::torch_files::{Archive, one_tensor};

const VALUES: [f32; 4] = [1.0, -2.0, 3.5, 1e-20];

fn little_endian() -> Vec<u8> {
    VALUES.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn read(archive: &Archive) -> Vec<f32> {
    let mut file = WeightsFile::open(&archive.path()).unwrap();
    let tensor: Tensor = file.tensor("x").unwrap();
    Vec::try_from(tensor.contiguous().view(-1)).unwrap()
}

/// Writes the archive again, its entries compressed, in another folder, with what other writers add.
fn packed_again(pickle: &[u8], storage: &[u8]) -> Archive {
    let archive = Archive::pickle(b"");
    let file = fs::File::create(archive.path()).unwrap();
    // Not seekable: lengths are behind the data, in descriptors.
    let mut zip = ZipWriter::new_stream(file);
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    zip.add_directory("deeper/top", options).unwrap();
    for (name, bytes) in [("version", &b"3\n"[..]), ("data.pkl", pickle), ("data/0", storage)] {
        zip.start_file(format!("deeper/top/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.set_comment("packed again").unwrap();
    zip.finish().unwrap();
    archive
}

#[test]
fn a_checkpoint_that_was_packed_again_and_compressed_is_read() {
    let archive = packed_again(&one_tensor(&[4], &[1], 0, 4), &little_endian());
    assert_eq!(read(&archive), VALUES);
    let middle = packed_again(&one_tensor(&[2], &[1], 1, 4), &little_endian());
    assert_eq!(read(&middle), VALUES[1..3]);
}

#[test]
fn a_compressed_storage_far_longer_than_its_tensor_is_refused() {
    let bomb = packed_again(&one_tensor(&[4], &[1], 0, 1 << 19), &vec![0; 1 << 21]);
    assert!(bomb.error().contains("compressed storage of 2097152"), "{}", bomb.error());
    let long = packed_again(&vec![b'N'; 17 << 20], &little_endian());
    assert!(long.error().contains("data.pkl has 17825792 bytes"), "{}", long.error());
}

#[test]
fn a_checkpoint_of_a_big_endian_machine_is_read() {
    let storage: Vec<u8> = VALUES.iter().flat_map(|value| value.to_be_bytes()).collect();
    let pickle = one_tensor(&[4], &[1], 0, 4);
    let archive =
        Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &storage), ("a/byteorder", b"big")]);
    assert_eq!(read(&archive), VALUES);
}

/// Returns a file as torch.save wrote it before PyTorch 1.6, of a pickle, the list of the keys of
/// its storages, and their values.
pub(crate) fn legacy_file(checkpoint: &[u8], keys: &[u8], storages: &[(i64, &[u8])]) -> Vec<u8> {
    let magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
    let version = b"\x80\x02M\xe9\x03.";
    let machine = b"\x80\x02}q\0(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88u.";
    let mut bytes = [&magic[..], version, machine, checkpoint, keys].concat();
    for (count, values) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(*values);
    }
    bytes
}

/// Returns a file in the old format with one tensor.
pub(crate) fn legacy() -> Vec<u8> {
    // A storage has a sixth field there.
    let checkpoint = one_tensor(&[2, 2], &[2, 1], 0, 4);
    let at = checkpoint.windows(2).position(|pair| pair == b"tQ").unwrap();
    let checkpoint = [&checkpoint[..at], b"N", &checkpoint[at..]].concat();
    legacy_file(&checkpoint, b"\x80\x02]q\0X\x01\0\0\0\x30a.", &[(4, &little_endian())])
}

/// A tensor: its name, the type, the key (one letter) and the length of its storage, its offset, its
/// size and its strides.
type Stored<'a> = (&'a str, &'a str, char, u8, u8, [u8; 2], [u8; 2]);

/// Returns the pickle of a dictionary of tensors.
fn checkpoint(tensors: &[Stored]) -> Vec<u8> {
    let text =
        |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let mut out = b"\x80\x02}(".to_vec();
    for &(name, kind, key, len, offset, [rows, columns], [down, right]) in tensors {
        out.extend(text(name));
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        out.extend(text("storage"));
        out.extend(format!("ctorch\n{kind}\n").as_bytes());
        out.extend(text(&key.to_string()));
        out.extend(text("cuda:0"));
        out.extend([b'K', len, b'N', b't', b'Q', b'K', offset]);
        out.extend([b'K', rows, b'K', columns, 0x86, b'K', down, b'K', right, 0x86, 0x89]);
        out.extend(b"ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.");
    out
}

/// Returns the pickle of a list of keys of one letter.
fn key_list(keys: &str) -> Vec<u8> {
    let each = keys.bytes().flat_map(|key| [b'X', 1, 0, 0, 0, key]);
    b"\x80\x02](".iter().copied().chain(each).chain(*b"e.").collect()
}

#[test]
fn views_shared_storages_and_half_precision_of_the_old_format_are_read() {
    let pickle = checkpoint(&[
        ("all", "FloatStorage", 'a', 6, 0, [2, 3], [3, 1]),
        ("transposed", "FloatStorage", 'a', 6, 0, [3, 2], [1, 3]),
        ("column", "FloatStorage", 'a', 6, 1, [2, 1], [3, 1]),
        ("half", "HalfStorage", 'h', 2, 0, [1, 2], [2, 1]),
        ("bfloat", "BFloat16Storage", 'b', 2, 0, [2, 1], [1, 1]),
    ]);
    let floats: Vec<u8> = (0..6u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    // 1 and -2 in half precision, and the upper halves of their float32.
    let (half, bfloat) = ([0x00, 0x3c, 0x00, 0xc0], [0x80, 0x3f, 0x00, 0xc0]);
    // The order of the values is that of the list, not that of the tensors.
    let storages: [(i64, &[u8]); 3] = [(2, &bfloat), (6, &floats), (2, &half)];
    let archive = Archive::pickle(b"");
    fs::write(archive.path(), legacy_file(&pickle, &key_list("bah"), &storages)).unwrap();
    let mut file = WeightsFile::open(&archive.path()).unwrap();
    for (name, size, values) in [
        ("all", [2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0][..]),
        ("transposed", [3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        ("column", [2, 1], &[1.0, 4.0]),
        ("half", [1, 2], &[1.0, -2.0]),
        ("bfloat", [2, 1], &[1.0, -2.0]),
    ] {
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.size(), size, "{name}");
        let read = tensor.to_kind(tch::Kind::Double).contiguous().view(-1);
        assert_eq!(Vec::<f64>::try_from(read).unwrap(), values, "{name}");
    }
}

#[test]
fn hostile_files_of_the_old_format_are_refused() {
    let archive = Archive::pickle(b"");
    let refused = |bytes: Vec<u8>, words: &str| {
        fs::write(archive.path(), bytes).unwrap();
        assert!(archive.error().contains(words), "{words}: {}", archive.error());
    };
    let values = [0; 16];
    let of = |len, offset| checkpoint(&[("x", "FloatStorage", 'a', len, offset, [2, 2], [2, 1])]);
    let good = of(4, 0);
    let file = |pickle: &[u8], keys: &str, count| {
        legacy_file(pickle, &key_list(keys), &[(count, &values)])
    };
    refused(file(&of(4, 1), "a", 4), "beyond its storage of 4 elements");
    refused(file(&of(9, 0), "a", 4), "a storage of 16 bytes, where 9 elements");
    refused(file(&good, "a", 5), "cut short");
    refused(file(&good, "a", -1), "cut short");
    refused(file(&good, "a", i64::MAX), "cut short");
    refused(file(&good, "", 4), "it has no storage a");
    refused(file(&good, "b", 4), "list of storages is damaged");
    refused(file(&good, &"a".repeat(100_000), 4), "cut short");
    refused(legacy_file(&good, b"\x80\x02K\x01.", &[]), "list of storages is damaged");
    refused(legacy_file(b"\x80\x02cos\nsystem\n)R.", &key_list(""), &[]), "os.system");
    // A view of a storage, as PyTorch wrote it before 0.4.
    let at = good.windows(4).position(|part| part == b"\x04NtQ").unwrap() + 1;
    let view = [&good[..at], b"X\x01\0\0\0v", b"K\0", b"K\x04", b"\x87", &good[at + 1..]].concat();
    refused(file(&view, "a", 4), "before 0.4: open it with torch.load and save it again");
}

#[test]
fn a_checkpoint_of_pytorch_before_1_6_is_read() {
    let archive = Archive::pickle(b"");
    let bytes = legacy();
    fs::write(archive.path(), &bytes).unwrap();
    assert_eq!(read(&archive), VALUES);
    for length in 32..bytes.len() {
        fs::write(archive.path(), &bytes[..length]).unwrap();
        assert!(archive.error().contains("cut short"), "{length}: {}", archive.error());
    }
    let mut long = bytes.clone();
    let at = bytes.len() - 24;
    long[at..at + 8].copy_from_slice(&i64::MAX.to_le_bytes());
    fs::write(archive.path(), &long).unwrap();
    assert!(archive.error().contains("cut short"), "{}", archive.error());
}

#[test]
fn the_state_dict_is_found_under_the_keys_that_training_loops_use() {
    let values = little_endian();
    // Each key has a tensor of another value.
    let file = |keys: &[&str]| {
        let entry = |(offset, key): (usize, &&str)| {
            let state = one_tensor(&[1], &[1], offset as i64, 4);
            let length = (key.len() as u32).to_le_bytes();
            [b"X", &length[..], key.as_bytes(), &state[2..state.len() - 1], b"s"].concat()
        };
        let entries: Vec<u8> = keys.iter().enumerate().flat_map(entry).collect();
        let pickle = [b"\x80\x02}X\x05\0\0\0epochK\x03s", &entries[..], b"."].concat();
        Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &values)])
    };
    for (keys, of_model, of_ema) in [
        (&["state_dict", "state_dict_ema"][..], Some(0), Some(1)),
        (&["model_ema", "model"], Some(1), Some(0)),
        (&["student", "teacher"], Some(1), None),
        (&["net"], Some(0), None),
        (&["weights", "EMA"], Some(0), Some(1)),
        (&["ema"], None, Some(0)),
    ] {
        let archive = file(keys);
        for (wanted, expected) in [(StateDict::Model, of_model), (StateDict::Ema, of_ema)] {
            let read = WeightsFile::open_state_dict(&archive.path(), wanted)
                .and_then(|mut file| file.tensor("x"));
            let read = read.map(|tensor| tensor.double_value(&[0]) as f32).ok();
            assert_eq!(read, expected.map(|index: usize| VALUES[index]), "{keys:?} {wanted:?}");
        }
    }
    // A file that is a state dict itself, with a tensor among its settings.
    let (own, of_settings) = (one_tensor(&[1], &[1], 2, 4), one_tensor(&[1], &[1], 3, 4));
    let settings = [b"X\x04\0\0\0meta", &of_settings[2..of_settings.len() - 1], b"s."].concat();
    let pickle = [&own[..own.len() - 1], &settings].concat();
    assert_eq!(read(&Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &values)])), [VALUES[2]]);
    let error = file(&["ema"]).error();
    assert!(error.contains("EMA weights alone, under ema: set weights_ema: true"), "{error}");
    let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(file(&many[..4]).path().exists() && file(&many).error().contains("100 dictionaries"));
}

#[test]
fn a_quantized_tensor_is_listed_and_refused_by_its_name() {
    let plain = one_tensor(&[4], &[1], 0, 4);
    let at = plain.windows(3).position(|part| part == b"_v2").unwrap();
    let name = at - "_rebuild_tensor".len();
    for function in ["_rebuild_qtensor", "_rebuild_tensor_v3"] {
        let pickle = [&plain[..name], function.as_bytes(), &plain[at + 3..]].concat();
        let archive = Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &little_endian())]);
        let mut file = WeightsFile::open(&archive.path()).unwrap();
        let error = format!("{:#}", file.tensor("x").unwrap_err());
        assert!(error.starts_with("tensor x: is stored as "), "{error}");
        assert!(error.ends_with(", which is not supported"), "{error}");
    }
}

#[test]
fn tensors_with_attributes_and_paths_next_to_them_are_read() {
    // The call of _rebuild_tensor_v2 becomes an argument of _rebuild_from_type_v2.
    let plain = one_tensor(&[4], &[1], 0, 4);
    let function = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let start = plain.windows(function.len()).position(|part| part == function).unwrap();
    let arguments = &plain[start + function.len()..plain.len() - 3]; // without R, s and STOP
    let pickle = [
        &plain[..start],
        b"ctorch._tensor\n_rebuild_from_type_v2\n(",
        function,
        b"ctorch\nTensor\n",
        arguments,
        b"}tRs",
        b"X\x04\0\0\0datacpathlib\nPosixPath\nX\x04\0\0\0data\x85Rs",
        b"X\x04\0\0\0typectorch\nfloat8_e4m3fn\ns.",
    ]
    .concat();
    let archive = Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &little_endian())]);
    assert_eq!(read(&archive), VALUES);
}

#[test]
fn a_long_tuple_that_is_used_again_and_again_costs_no_time() {
    let tuple = [
        &b"\x80\x02(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0\x30X\x03\0\0\0cpuK\x04N"[..],
        &b"N".repeat(500_000),
        b"tq\0",
    ]
    .concat();
    // Each use was a copy: 10^11 words.
    let pickle = [tuple, b"h\0Q0".repeat(400_000), b"N.".to_vec()].concat();
    let error = Archive::pickle(&pickle).error();
    assert!(error.contains("no dictionary"), "{error}");
    // A name of megabytes that each of many tensors has.
    let one = one_tensor(&[4], &[1], 0, 4);
    let name = b"X\x01\0\0\0x";
    let at = one.windows(name.len()).position(|part| part == name).unwrap();
    let long = [&b"X\0\0\x40\0"[..], &b"x".repeat(4 << 20), b"q\0"].concat();
    let tensor = &one[at + name.len()..one.len() - 2];
    let again = [&b"h\0"[..], b"h\x01s"].concat().repeat(200_000);
    let pickle = [&one[..at], &long, tensor, b"q\x01s", &again, b"."].concat();
    let error = Archive::pickle(&pickle).error();
    assert!(error.contains("the name of a tensor has 4194304 bytes"), "{error}");
}

#[cfg(unix)]
#[test]
fn devices_and_pipes_as_weights_are_refused_at_once() {
    for path in ["/dev/zero", "/dev/null"] {
        let error = format!("{:#}", WeightsFile::open(path.as_ref()).unwrap_err());
        assert!(error.contains(path) && error.contains("not a regular file"), "{error}");
    }
}

#[test]
fn a_name_with_a_line_break_is_escaped_in_the_error() {
    let pickle = one_tensor(&[4], &[1], 1, 4);
    let at = pickle.windows(6).position(|part| part == b"X\x01\0\0\0x").unwrap();
    let pickle = [&pickle[..at + 5], b"\n", &pickle[at + 6..]].concat();
    let error = Archive::pickle(&pickle).error();
    assert!(error.contains(r"tensor \n: of shape"), "{error}");
}
