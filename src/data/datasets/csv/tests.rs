//! Every form of a table that is read, and what is refused.

use super::*;
use crate::config::Delimiter;
use crate::data::csv_cell;

fn read_text(
    name: &str,
    text: impl AsRef<[u8]>,
    change: impl Fn(&mut DataConfig),
) -> Result<Listing> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    let mut config = DataConfig { root: folder.path().to_path_buf(), ..DataConfig::default() };
    change(&mut config);
    read(&config, 1)
}

fn sizes(listing: &Listing) -> [usize; 3] {
    Split::ALL.map(|split| listing.rows(split).len())
}

fn complaint(name: &str, text: impl AsRef<[u8]>) -> String {
    format!("{:#}", read_text(name, text, |_| ()).unwrap_err())
}

fn plain(rows: usize) -> String {
    (0..rows)
        .fold("image,score\n".to_string(), |text, row| format!("{text}{row}.jpg,{}\n", row % 17))
}

#[test]
fn without_a_split_column_val_and_test_are_held_out() {
    let listing = read_text("faces.csv", plain(100), |_| ()).unwrap();
    assert_eq!(sizes(&listing), [80, 10, 10]);
    let listing = read_text("faces.csv", plain(100), |config| {
        (config.val_fraction, config.test_fraction) = (0.2, 0.0);
    });
    assert_eq!(sizes(&listing.unwrap()), [80, 20, 0]);
}

#[test]
fn a_split_column_decides_and_val_is_held_out_where_it_names_none() {
    let text = "image,score,split\na,1,train\nb,2,Training\nc,3,val\nd,4,test\n";
    assert_eq!(sizes(&read_text("t.csv", text, |_| ()).unwrap()), [2, 1, 1]);
    let rows: String = (0..20).map(|row| format!("{row},{row},train\n")).collect();
    let text = format!("image,score,split\n{rows}x,1,test\n");
    assert_eq!(sizes(&read_text("t.csv", text, |_| ()).unwrap()), [18, 2, 1]);
}

#[test]
fn a_person_is_held_out_with_all_images_or_not_at_all() {
    let rows: String =
        (0..60).map(|row| format!("{row}.jpg,{},person {}\n", row % 7, row / 4)).collect();
    let listing = read_text("t.csv", format!("image,score,person\n{rows}"), |_| ()).unwrap();
    let persons = Split::ALL.map(|split| {
        let rows = listing.rows(split).iter();
        let persons = rows.map(|row| row.person().map(str::to_string));
        persons.collect::<std::collections::HashSet<_>>()
    });
    assert_eq!(persons.iter().map(|persons| persons.len()).sum::<usize>(), 15);
    assert!(persons.iter().all(|persons| !persons.is_empty()));
}

#[test]
fn columns_can_be_renamed_and_reordered() {
    let text = "\u{feff}set;ignored".replace(';', ",")
        + ",Rating,face,Who\ntrain,7, 3.5 ,\"a, b.jpg\",female/asian\ntest,7,1,c.jpg,\n";
    let listing = read_text("t.csv", text, |config| {
        config.csv = CsvConfig {
            image_column: "face".into(),
            score_column: "Rating".into(),
            split_column: "set".into(),
            group_column: "Who".into(),
            ..CsvConfig::default()
        };
    })
    .unwrap();
    let row = &listing.rows(Split::Train)[0];
    assert_eq!((&*row.id, row.score), ("a, b.jpg", 3.5));
    assert_eq!(row.group(), Some("female/asian"));
    assert_eq!(listing.rows(Split::Test)[0].group(), None);
}

#[test]
fn weights_and_votes_are_read_and_votes_can_replace_the_score() {
    let text = "image,rater_1,weight,rater_2,rater_3,split\na,1,0.5,2,,train\nb,,,,4,val\n";
    let with_votes = |config: &mut DataConfig| {
        config.csv.votes_columns = vec!["rater_2".into(), "rater_*".into()];
    };
    let listing = read_text("t.csv", text, with_votes).unwrap();
    let row = |split: Split| {
        let row = &listing.rows(split)[0];
        let labels = row.labels.as_deref().unwrap();
        (row.score, labels.weight, labels.votes.as_slice())
    };
    assert_eq!(row(Split::Train), (1.5, 0.5, [1.0, 2.0].as_slice()));
    assert_eq!(row(Split::Val), (4.0, 1.0, [4.0].as_slice()));
    for (text, expected) in [
        ("image,rater_1\na,\n", "t.csv:2: a: no votes"),
        ("image,rater_1\na,x\n", "t.csv:2: a vote: the score \"x\""),
        ("image,rater_1,weight\na,1,-1\n", "t.csv:2: the weight \"-1\""),
        ("image,score\na,1\n", "t.csv:1: no column \"rater_*\""),
    ] {
        let error = read_text("t.csv", text, |config| {
            config.csv.votes_columns = vec!["rater_*".into()];
        });
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn weights_of_zero_alone_are_an_error_that_names_the_column() {
    let text = "image,score,weight,split\na,1,0,train\nb,2,0,train\nc,3,1,val\n";
    let error = format!("{:#}", read_text("t.csv", text, |_| {}).unwrap_err());
    assert!(error.contains("t.csv") && error.contains("in the column \"weight\""), "{error}");
    let some = text.replace("a,1,0", "a,1,0.5");
    assert!(read_text("t.csv", &some, |_| {}).is_ok());
    let only_val = "image,score,weight,split\nc,3,0,val\n";
    assert!(read_text("t.csv", only_val, |_| {}).is_ok());
}

#[test]
fn paths_are_relative_to_the_table_or_absolute() {
    let elsewhere = tempfile::tempdir().unwrap();
    let absolute = elsewhere.path().join("face.jpg");
    fs::write(&absolute, "").unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("images")).unwrap();
    fs::write(folder.path().join("images/a.jpg"), "").unwrap();
    let table = folder.path().join("faces.tsv");
    fs::write(
        &table,
        format!(
            "image\tscore\tsplit\nimages/a.jpg\t1\ttrain\n{}\t2\ttrain\nno.jpg\t2\tval\n",
            absolute.display()
        ),
    )
    .unwrap();
    let config = DataConfig { root: table, ..DataConfig::default() };
    let listing = read(&config, 1).unwrap();
    assert!(listing.rows(Split::Train).iter().all(|row| row.path().is_some()));
    assert!(listing.rows(Split::Val)[0].missing_reason().is_some());
}

#[test]
fn a_bad_row_is_named_by_file_and_line() {
    for (text, expected) in [
        (&b"image,score\na,1\nb,high\n"[..], "t.csv:3: the score \"high\" is not a finite number"),
        (b"image,score\na,inf\n", "t.csv:2: the score \"inf\""),
        (b"image,score\n,3\n", "t.csv:2: the image's name is empty"),
        (b"image,score\na,3,4\n", "t.csv:2: has 3 fields, the header 2"),
        (b"image,score,split\na,3,holdout\n", "t.csv:2: there is no split \"holdout\""),
        (b"image,score\na,1\n\xe9,3\n", "t.csv:3: is not UTF-8"),
        (
            b"file,score\na,3\n",
            "t.csv:1: no column \"image\"; separated by commas, the file has the columns file, \
             score. Set data.csv.image_column to one of them, or data.csv.delimiter",
        ),
        (b"image,score\na,\"1,5\"\n", "t.csv:2: the score \"1,5\" is not a finite number; write"),
        (b"image,score,score\na,1,2\n", "t.csv:1: two columns are named \"score\"; rename"),
        (b"PK\x03\x04\0\0", "t.csv: is not a readable spreadsheet (.xlsx)"),
        (b"\xd0\xcf\x11\xe0\0", "t.csv: is an old spreadsheet (.xls); save it as .xlsx"),
        (b"\x7fELF\0\0", "t.csv: is not a text file"),
        (b"\xff\xfe\0\xd8", "t.csv: is damaged UTF-16"),
        (b"image,score\n", "t.csv: has a header but no rows"),
        (b"", "t.csv: is empty"),
        (b"\n \n", "t.csv: is empty"),
    ] {
        let error = complaint("t.csv", text);
        assert!(error.contains(expected), "{error}");
    }
    let renamed =
        read_text("t.csv", "image,score\na,1\n", |config| config.csv.split_column = "fold".into());
    assert!(renamed.unwrap_err().root_cause().to_string().contains("data.csv.split_column"));
}

#[test]
fn tables_are_read_as_spreadsheet_programs_write_them() {
    let utf16 = |little: bool| -> Vec<u8> {
        let units = "\u{feff}image\tscore\r\nn\u{1ec5}.jpg\t1.5\r\nb.jpg\t2\r\n".encode_utf16();
        units.flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() }).collect()
    };
    for text in [
        b"image;score\nn\xe1\xbb\x85.jpg;1,5\nb.jpg;2\n".to_vec(),
        b"sep=;\r\nimage;score\r\nn\xe1\xbb\x85.jpg;1.5\r\nb.jpg;2,0\r\n".to_vec(),
        b"\xef\xbb\xbfsep=,\r\nimage,score\r\nn\xe1\xbb\x85.jpg,1.5\r\nb.jpg,2\r\n".to_vec(),
        b"image\tscore\nn\xe1\xbb\x85.jpg\t1.5\nb.jpg\t2\n".to_vec(),
        b"image|score\nn\xe1\xbb\x85.jpg|1.5\nb.jpg|2\n".to_vec(),
        b"# exported 2024; 3 columns\nimage,score\nn\xe1\xbb\x85.jpg,1.5\nb.jpg,2\n".to_vec(),
        b"image,score,,\nn\xe1\xbb\x85.jpg,1.5,,\n,,,\nb.jpg,2,,,\n,,,\n\n , \n".to_vec(),
        b"\n\"note; or, not\";score;image\n;1,5;n\xe1\xbb\x85.jpg\n\"a;b\";2;b.jpg\n".to_vec(),
        utf16(true),
        utf16(false),
    ] {
        let listing = read_text("t.csv", &text, |config| {
            (config.val_fraction, config.test_fraction) = (0.0, 0.0);
        })
        .unwrap();
        let rows = listing.rows(Split::Train).iter();
        let rows: Vec<_> = rows.map(|row| (row.id.to_string(), row.score)).collect();
        let expected = [("n\u{1ec5}.jpg".to_string(), 1.5), ("b.jpg".to_string(), 2.0)];
        assert_eq!(rows, expected, "{}", String::from_utf8_lossy(&text));
    }
    // The line counts what precedes the header.
    let error = complaint("t.csv", "sep=;\n# note\nimage;score\na;1\nb;high\n");
    assert!(error.contains("t.csv:5: the score \"high\""), "{error}");
}

#[test]
fn a_delimiter_is_named_by_its_word_or_its_character() {
    for (delimiter, character) in [
        (Delimiter::Comma, ","),
        (Delimiter::Semicolon, ";"),
        (Delimiter::Tab, "\t"),
        (Delimiter::Bar, "|"),
    ] {
        assert_eq!(character.parse(), Ok(delimiter));
        assert_eq!(delimiter.name().parse(), Ok(delimiter));
    }
    let error = "x".parse::<Delimiter>().unwrap_err();
    assert!(error.contains("auto, comma, semicolon, tab, bar"), "{error}");
}

#[test]
fn the_configured_delimiter_wins() {
    let text = "image,a;score;image\nx;1;y\n";
    let read = |delimiter| {
        read_text("t.csv", text, |config| {
            config.csv.delimiter = delimiter;
            (config.val_fraction, config.test_fraction) = (0.0, 0.0);
        })
    };
    assert_eq!(&*read(Delimiter::Auto).unwrap().rows(Split::Train)[0].id, "y");
    let error = format!("{:#}", read(Delimiter::Comma).unwrap_err());
    assert!(error.contains("no column \"score\"; separated by commas"), "{error}");
}

#[test]
fn the_table_has_to_be_the_only_one_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = DataConfig { root: folder.path().to_path_buf(), ..DataConfig::default() };
    let message = |config: &DataConfig| format!("{:#}", read(config, 1).unwrap_err());
    assert!(message(&config).contains("holds no CSV file"));
    fs::write(folder.path().join("a.csv"), plain(4)).unwrap();
    fs::write(folder.path().join("b.CSV"), plain(5)).unwrap();
    assert!(message(&config).contains("holds several CSV files"));
    config.root = folder.path().join("gone.csv");
    assert!(message(&config).contains("gone.csv: cannot be read"));
    config.root = folder.path().join("b.CSV");
    assert_eq!(sizes(&read(&config, 1).unwrap()).iter().sum::<usize>(), 5);
    config.split = "fold_1".to_string();
    assert!(message(&config).contains("data.split"));
}

#[test]
fn names_that_were_kept_from_being_formulas_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["-1.jpg", "@x.jpg", "'=literal.jpg"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let names = ["-1.jpg", "@x.jpg", "+gone.jpg"];
    let mut table = "image,score,group,person,split\n".to_string();
    for name in names {
        table += &format!("{},1,{},{},train\n", csv_cell(name), csv_cell("=g"), csv_cell("+p"));
    }
    table += "'=literal.jpg,1,'tis,,val\n";
    let file = folder.path().join("t.csv");
    fs::write(&file, table).unwrap();
    let config = DataConfig { root: file, ..DataConfig::default() };
    let listing = read(&config, 1).unwrap();
    let train = listing.rows(Split::Train);
    assert_eq!(train.iter().map(|row| &*row.id).collect::<Vec<_>>(), names);
    assert_eq!([0, 1, 2].map(|row| train[row].path().is_some()), [true, true, false]);
    assert!(train.iter().all(|row| row.group() == Some("=g") && row.person() == Some("+p")));
    let literal = &listing.rows(Split::Val)[0];
    assert_eq!((&*literal.id, literal.group()), ("'=literal.jpg", Some("'tis")));
    assert!(literal.path().is_some());
}

#[test]
fn empty_lines_take_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.csv");
    fs::write(&file, format!("image,score\na,1\n{}", "\n".repeat(1 << 18))).unwrap();
    let (rows, _) = read_table(&file, &CsvConfig::default(), None).unwrap();
    let train = &rows[Split::Train as usize];
    assert!(train.len() == 1 && train.capacity() < 100, "{}", train.capacity());
}

#[test]
fn images_may_be_in_a_folder_of_their_own_and_folds_in_a_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("images")).unwrap();
    let mut text = "image,score,split,part\n".to_string();
    for row in 0..12 {
        fs::write(path(&format!("images/{row}.png")), [row]).unwrap();
        text += &format!("{row}.png,{row},train,{}\n", [10, 9, 2][usize::from(row) % 3]);
    }
    fs::write(path("t.csv"), text).unwrap();
    let mut config = DataConfig { root: path("t.csv"), ..DataConfig::default() };
    config.csv.image_dir = Some("images".into());
    config.csv.fold_column = "part".into();
    assert_eq!(fold_names(&config).unwrap(), ["fold_2", "fold_9", "fold_10"]);
    config.split = "fold_9".into();
    let listing = read(&config, 1).unwrap();
    assert_eq!(sizes(&listing), [7, 1, 4]);
    assert!(listing.rows(Split::Test).iter().all(|row| row.path().is_some()));
    for (split, column, words) in [
        (
            "fold_3",
            "part",
            "no row has the fold \"fold_3\" in the column \"part\", which has fold_2",
        ),
        ("fold_2", "fold", "no column \"fold\""),
    ] {
        (config.split, config.csv.fold_column) = (split.into(), column.into());
        let error = format!("{:#}", read(&config, 1).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    config.csv.fold_column = "score".into();
    fs::write(path("t.csv"), "image,score\na/b,1_of_2\n").unwrap();
    let error = format!("{:#}", fold_names(&config).unwrap_err());
    assert!(error.contains("t.csv:2: the fold \"1_of_2\" must be named by letters"), "{error}");
}
