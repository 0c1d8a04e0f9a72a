//! Every file that torch.load and Python's zipfile read is read, and what is hostile in it costs
//! neither time nor memory.

use std::fs;
use std::io::Write;

use tch::Tensor;
use vm_beautynet::models::weights::WeightsFile;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::generator::alone_with_the_generator;
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
    let _alone = alone_with_the_generator();
    let archive = packed_again(&one_tensor(&[4], &[1], 0, 4), &little_endian());
    assert_eq!(read(&archive), VALUES);
    let middle = packed_again(&one_tensor(&[2], &[1], 1, 4), &little_endian());
    assert_eq!(read(&middle), VALUES[1..3]);
}

#[test]
fn a_compressed_storage_far_longer_than_its_tensor_is_refused() {
    let _alone = alone_with_the_generator();
    let bomb = packed_again(&one_tensor(&[4], &[1], 0, 1 << 19), &vec![0; 1 << 21]);
    assert!(bomb.error().contains("compressed storage of 2097152"), "{}", bomb.error());
    let long = packed_again(&vec![b'N'; 17 << 20], &little_endian());
    assert!(long.error().contains("data.pkl has 17825792 bytes"), "{}", long.error());
}

#[test]
fn a_checkpoint_of_a_big_endian_machine_is_read() {
    let _alone = alone_with_the_generator();
    let storage: Vec<u8> = VALUES.iter().flat_map(|value| value.to_be_bytes()).collect();
    let pickle = one_tensor(&[4], &[1], 0, 4);
    let archive =
        Archive::new(&[("a/data.pkl", &pickle), ("a/data/0", &storage), ("a/byteorder", b"big")]);
    assert_eq!(read(&archive), VALUES);
}

/// Returns a file as torch.save wrote it before PyTorch 1.6.
fn legacy() -> Vec<u8> {
    let magic = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.";
    let version = b"\x80\x02M\xe9\x03.";
    let machine = b"\x80\x02}q\0(X\x10\0\0\0protocol_versionM\xe9\x03X\r\0\0\0little_endian\x88u.";
    // A storage has a sixth field there.
    let checkpoint = one_tensor(&[2, 2], &[2, 1], 0, 4);
    let at = checkpoint.windows(2).position(|pair| pair == b"tQ").unwrap();
    let checkpoint = [&checkpoint[..at], b"N", &checkpoint[at..]].concat();
    let keys = b"\x80\x02]q\0X\x01\0\0\0\x30a.";
    let count = 4i64.to_le_bytes();
    [&magic[..], version, machine, &checkpoint, keys, &count, &little_endian()].concat()
}

#[test]
fn a_checkpoint_of_pytorch_before_1_6_is_read() {
    let _alone = alone_with_the_generator();
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
fn tensors_with_attributes_and_paths_next_to_them_are_read() {
    let _alone = alone_with_the_generator();
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
    let _alone = alone_with_the_generator();
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
    let _alone = alone_with_the_generator();
    let pickle = one_tensor(&[4], &[1], 1, 4);
    let at = pickle.windows(6).position(|part| part == b"X\x01\0\0\0x").unwrap();
    let pickle = [&pickle[..at + 5], b"\n", &pickle[at + 6..]].concat();
    let error = Archive::pickle(&pickle).error();
    assert!(error.contains(r"tensor \n: of shape"), "{error}");
}
