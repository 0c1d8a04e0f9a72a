//! Texts without the folders of the user, for what is published.

use std::env;

/// Returns a text with `.` in place of the working folder and `~` in place of a home folder, this
/// user's or another's: the paths in a report say where files are, not who made it.
pub fn without_own_folders(text: &str) -> String {
    let mut folders: Vec<(String, &str)> = Vec::new();
    if let Ok(folder) = env::current_dir() {
        folders.push((folder.display().to_string(), "."));
    }
    folders.extend(env::var("HOME").ok().map(|home| (home, "~")));
    for parent in ["/home/", "/Users/"] {
        let after = text.match_indices(parent).map(|(at, _)| &text[at + parent.len()..]);
        let user = |rest: &str| rest.split(|c| !is_of_name(c)).next().unwrap_or_default().len();
        let homes = after.map(|rest| (format!("{parent}{}", &rest[..user(rest)]), "~"));
        folders.extend(homes);
    }
    // A home folder that is the root, as in a container, says nothing.
    folders.retain(|(folder, _)| folder.starts_with('/') && !folder.ends_with('/'));
    folders.iter().fold(text.to_owned(), |text, (folder, shown)| replaced(&text, folder, shown))
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || "._-".contains(c)
}

/// Replaces a folder where it is a whole path, or the start of one.
fn replaced(text: &str, folder: &str, shown: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(folder) {
        let (before, after) = (&rest[..at], &rest[at + folder.len()..]);
        let inside = |c: char| is_of_name(c) || c == '/' || c == '~';
        let starts = !before.chars().next_back().is_some_and(inside);
        let ends = !after.chars().next().is_some_and(is_of_name);
        out += before;
        out += if starts && ends { shown } else { folder };
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_folder_and_home_folders_are_short() {
        let here = env::current_dir().unwrap();
        let here = here.display();
        for (text, expected) in [
            (format!("root: {here}/data/r.csv"), "root: ./data/r.csv".to_owned()),
            (format!("{here}: no file"), ".: no file".into()),
            (format!("/mnt{here}/b"), format!("/mnt{here}/b")),
            ("/home/anna/x, '/Users/bo b', /home/".into(), "~/x, '~ b', /home/".into()),
            ("/mnt/home/anna/x, plain/a.png".into(), "/mnt/home/anna/x, plain/a.png".into()),
        ] {
            assert_eq!(without_own_folders(&text), expected);
        }
    }
}
