//! Paths in a config, where no shell expands what a user writes: `~/` is the home folder, and a
//! shell's variable is refused.

use std::path::{self, Path, PathBuf};
use std::{env, io};

use super::Config;
use super::checks::Checks;
use super::error::ConfigError;
use super::weights_source::WeightsSource;

/// Expands the paths of a config. Returns an error that names the keys of those that cannot be.
pub(super) fn expand(config: &mut Config) -> Result<(), ConfigError> {
    let mut checks = Checks::default();
    for (key, path) in paths_of(config) {
        match expanded(path) {
            Ok(full) => *path = full,
            Err(reason) => checks.fail(key, format_args!(": {reason}")),
        }
    }
    checks.finish()
}

/// Returns the paths of a config that count from the working folder, with their keys.
fn paths_of(config: &mut Config) -> impl Iterator<Item = (&'static str, &mut PathBuf)> {
    let (data, model) = (&mut config.data, &mut config.model);
    let paths = [
        ("data.root", Some(&mut data.root)),
        ("data.cache_dir", data.cache_dir.as_mut()),
        ("model.weights", model.weights.as_mut()),
        ("model.vit.weights", model.vit.weights.as_mut().and_then(WeightsSource::file_mut)),
        ("model.mamba.weights", model.mamba.weights.as_mut().and_then(WeightsSource::file_mut)),
    ];
    paths.into_iter().filter_map(|(key, path)| Some((key, path?)))
}

impl Config {
    /// Returns the config with absolute paths, which mean the same in every folder. Returns an
    /// error if the working folder cannot be read.
    pub fn with_absolute_paths(&self) -> io::Result<Self> {
        let mut config = self.clone();
        for (_, path) in paths_of(&mut config).filter(|(_, path)| **path != Path::new("")) {
            *path = path::absolute(&path)?;
        }
        Ok(config)
    }
}

impl Config {
    /// Returns the config with the names of files and folders in place of their paths, which say
    /// something of the machine: for a model that is published.
    pub fn without_folders(&self) -> Self {
        let mut config = self.clone();
        for (_, path) in paths_of(&mut config) {
            if let Some(name) = path.file_name() {
                *path = name.into();
            }
        }
        config
    }
}

/// Returns the path with the user's home folder in place of a `~` at its start. Returns an error
/// that says what to write if it begins with another user's `~name` or with a variable.
pub(crate) fn expanded(path: &Path) -> Result<PathBuf, String> {
    let text = path.to_string_lossy();
    let first = text.split('/').next().unwrap_or_default();
    let is_variable = first.strip_prefix('$').is_some_and(|name| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '{')
    });
    if is_variable {
        let name = first.trim_matches(['$', '{', '}']);
        return Err(format!(
            "{first} is not expanded: write the full path, or ${{env:{name}}} (if a folder has \
             this name, ./{text})"
        ));
    }
    match path.strip_prefix("~") {
        Ok(rest) => env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(|home| Path::new(&home).join(rest))
            .ok_or_else(|| format!("{text} needs the variable HOME: write the full path")),
        Err(_) if first.starts_with('~') && first != text => Err(format!(
            "{first} is not expanded: write the full path (if a folder has this name, ./{text})"
        )),
        Err(_) => Ok(path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::from_yaml(text, "a.yaml", &[])
    }

    #[test]
    fn the_home_folder_is_expanded_and_written_out() {
        let home = PathBuf::from(env::var_os("HOME").unwrap());
        let config = load("data: {root: ~/faces/r.csv}\nmodel: {vit: {weights: ~/w.pth}}").unwrap();
        assert_eq!(config.data.root, home.join("faces/r.csv"));
        assert_eq!(config.model.vit.weights, Some(home.join("w.pth").into()));
        let config = load(&config.to_yaml().unwrap()).unwrap();
        assert_eq!(config.data.root, home.join("faces/r.csv"));
    }

    #[test]
    fn paths_are_absolute_in_a_run_and_names_in_a_published_model() {
        let text = "data: {root: faces/r.csv, csv: {image_dir: images}}\n\
                    model: {vit: {weights: /w/vit.pth}}";
        let config = load(text).unwrap();
        let absolute = config.with_absolute_paths().unwrap();
        assert_eq!(absolute.data.root, env::current_dir().unwrap().join("faces/r.csv"));
        assert_eq!(absolute.data.csv.image_dir, Some("images".into()), "relative to the table");
        assert_eq!(Config::default().with_absolute_paths().unwrap(), Config::default());
        let published = absolute.without_folders();
        assert_eq!(published.data.root, Path::new("r.csv"));
        assert_eq!(published.model.vit.weights, Some(PathBuf::from("vit.pth").into()));
    }

    #[test]
    fn a_variable_and_another_users_home_are_refused_with_what_to_write() {
        for path in ["$HOME/faces", "${DATA}/faces", "$DATA", "~anna/faces"] {
            let error = load(&format!("name: a\ndata:\n  root: {path}\n")).unwrap_err().to_string();
            assert!(error.starts_with("a.yaml:3: data.root: "), "{error}");
            assert!(error.contains("write the full path"), "{error}");
            assert!(error.ends_with(&format!("./{path})")), "{error}");
            load(&format!("data:\n  root: ./{path}\n")).unwrap();
        }
        for path in ["a/$b/~c", "~x", "$1/a", "a~/b"] {
            assert_eq!(expanded(Path::new(path)).unwrap(), Path::new(path));
        }
    }
}
