//! Folders that commands write into. A manifest in each says what its files depend on and which of them are ours; nothing else
//! there is removed or overwritten unless the user says so, and what was made otherwise is not added to.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Serialize;
use serde_json::{Map, Value};

use ncsn::device::{self, Precision, instructions};
use ncsn::file::{self, read_at_most, remove_leftovers, write_atomically};
use ncsn::{Error, Result};

use super::lock::Lock;

/// The largest manifest.
const MAX_BYTES: u64 = 1 << 20;
/// The manifest's key that lists its files.
const FILES: &str = "files";

/// A kind of folder.
pub struct Kind {
    /// The manifest's name.
    pub manifest: &'static str,
    /// What its files depend on only in number or in looks: other values are no other set of files.
    pub free: &'static [&'static str],
    /// The patterns of all files that such a folder has, as [`matches`] reads them; of a manifest of an earlier version too, which
    /// did not list them.
    pub files: fn(&Map<String, Value>) -> Vec<String>,
    /// Other names in the folder that nobody minds.
    pub neighbours: fn(&str) -> bool,
}

/// What to do with files of ours that are there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Existing {
    /// Add to them if they were made the same way, else refuse.
    Keep,
    /// Add to them if they were made the same way, else remove them.
    ReplaceOthers,
    /// Remove them.
    Replace,
}

impl Existing {
    /// What the flag `--overwrite` means.
    pub fn overwrite(asked: bool) -> Self {
        if asked { Self::Replace } else { Self::Keep }
    }
}

/// Where something is computed: what numbers depend on beside the settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Platform {
    precision: String,
    device: String,
    /// The processor's instruction set in use.
    instructions: String,
    /// Of this program.
    version: &'static str,
}

impl Platform {
    /// That of `device`.
    pub fn of(device: &Device) -> Result<Self> {
        Ok(Self {
            precision: Precision::current().to_string(),
            device: device::name(device).unwrap_or_else(|| "cpu".into()),
            instructions: instructions()?.to_string(),
            version: env!("CARGO_PKG_VERSION"),
        })
    }
}

/// A folder of files of one kind, held by its lock.
pub struct Output {
    folder: PathBuf,
    kind: Kind,
    lock: Lock,
    /// The manifest that is there, if its files are added to.
    pub earlier: Option<Map<String, Value>>,
}

impl Output {
    /// Takes `folder` for files that depend on `made_of`. Nothing in it changes if it is refused; otherwise what is there is
    /// ours and made the same way, or gone.
    pub fn open(folder: &Path, kind: Kind, made_of: &impl Serialize, existing: Existing) -> Result<Self> {
        let made_of = object(made_of);
        // Before the lock too, whose file would be a change.
        check(folder, &kind, &made_of, existing)?;
        let lock = Lock::take(folder)?;
        let earlier = match check(folder, &kind, &made_of, existing) {
            Ok(earlier) => earlier,
            Err(error) => {
                lock.give_back();
                return Err(error);
            }
        };
        let mut output = Self { folder: folder.to_path_buf(), kind, lock, earlier };
        output.remove_leftovers(&made_of)?;
        let is_same = |earlier: &Map<_, _>| difference(earlier, &made_of, output.kind.free).is_none();
        if existing == Existing::Replace || !output.earlier.as_ref().is_some_and(is_same) {
            output.start_anew(&made_of)?;
        }
        Ok(output)
    }

    /// Removes what the manifest lists and what has the name of a new file: whatever was there would be taken for one of them.
    pub fn start_anew(&mut self, made_of: &impl Serialize) -> Result<()> {
        self.remove_ours()?;
        let files = (self.kind.files)(&object(made_of));
        for name in names(&self.folder, &folders(&files))? {
            if files.iter().any(|pattern| matches(pattern, &name)) {
                self.remove(&name)?;
            }
        }
        files.iter().try_for_each(|name| file::remove_partial(&self.path(name)))
    }

    /// Says in the manifest what the files depend on and which they are; before the first of them is written.
    pub fn describe(&self, made_of: &impl Serialize) -> Result<()> {
        self.lock.check()?;
        let mut manifest = object(made_of);
        manifest.insert(FILES.into(), (self.kind.files)(&manifest).into());
        let json = serde_json::to_string_pretty(&manifest).expect("a manifest is plain data");
        let path = self.folder.join(self.kind.manifest);
        if read_at_most(&path, MAX_BYTES).is_ok_and(|found| found == json.as_bytes()) {
            return Ok(());
        }
        write_atomically(&path, |out| out.write_all(json.as_bytes()))
    }

    /// The file `name` in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Removes the file `name`, if it is there.
    pub fn remove(&self, name: &str) -> Result<()> {
        file::remove(&self.path(name))
    }

    /// Makes the folders in which files of this kind lie.
    pub fn make_folders(&self, made_of: &impl Serialize) -> Result<()> {
        folders(&(self.kind.files)(&object(made_of))).into_iter().try_for_each(|name| {
            let folder = self.folder.join(name);
            fs::create_dir_all(&folder).map_err(Error::io(&folder))
        })
    }

    fn remove_leftovers(&self, made_of: &Map<String, Value>) -> Result<()> {
        let files = (self.kind.files)(made_of);
        let is_ours = |name: &str| name == self.kind.manifest || files.iter().any(|pattern| matches(pattern, name));
        for inner in folders(&files).into_iter().chain([String::new()]) {
            let prefix = if inner.is_empty() { String::new() } else { format!("{inner}/") };
            remove_leftovers(&self.folder.join(&inner), |name| is_ours(&format!("{prefix}{name}")))?;
        }
        Ok(())
    }

    /// Removes what the manifest lists, and at last the manifest.
    fn remove_ours(&mut self) -> Result<()> {
        let Some(earlier) = self.earlier.take() else { return Ok(()) };
        let listed = listed(&earlier, &self.kind);
        for name in names(&self.folder, &folders(&listed))? {
            if listed.iter().any(|pattern| matches(pattern, &name)) {
                self.remove(&name)?;
            }
        }
        self.remove(self.kind.manifest)
    }
}

/// The manifest that is there, if `folder` may be written to.
fn check(
    folder: &Path,
    kind: &Kind,
    made_of: &Map<String, Value>,
    existing: Existing,
) -> Result<Option<Map<String, Value>>> {
    // What is written through a link would land in somebody else's folder.
    for inner in folders(&(kind.files)(made_of)) {
        let path = folder.join(inner);
        if fs::symlink_metadata(&path).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::format(&path, "found a file or a link, expected a folder"));
        }
    }
    let earlier = read(&folder.join(kind.manifest));
    if existing == Existing::Replace {
        // What is no manifest lists nothing.
        return if let Err(Error::Format { .. }) = earlier { Ok(None) } else { earlier };
    }
    let earlier = earlier?;
    let foreign = foreign(folder, kind, earlier.as_ref(), made_of)?;
    if let Some(first) = foreign.first() {
        let more = if foreign.len() > 1 { format!(" and {} more", foreign.len() - 1) } else { String::new() };
        return Err(Error::Usage(format!(
            "{} holds {first}{more}, which this command did not write; {}",
            folder.display(),
            match existing {
                Existing::ReplaceOthers => "move that away",
                _ => "another folder leaves that alone, --overwrite replaces only what has the name of a new file",
            }
        )));
    }
    if let (Some(earlier), Existing::Keep) = (&earlier, existing)
        && let Some(difference) = difference(earlier, made_of, kind.free)
    {
        return Err(Error::Usage(format!(
            "{} holds files that were made otherwise ({difference}; {} tells all); --overwrite replaces them",
            folder.display(),
            kind.manifest
        )));
    }
    Ok(earlier)
}

/// Refuses to replace the file at `path` unless it `is_ours`, as an earlier call of the command wrote it, or the user says so.
pub fn expect_free(path: &Path, overwrite: bool, is_ours: impl Fn(&Path) -> bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(metadata) if metadata.is_file() && (overwrite || is_ours(path)) => Ok(()),
        Ok(metadata) if metadata.is_file() => Err(Error::Usage(format!(
            "{} exists and is no result of this command; --overwrite replaces it",
            path.display()
        ))),
        Ok(_) => Err(Error::format(path, "found something else than a file, expected a name for a new file")),
    }
}

fn object(made_of: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(made_of) {
        Ok(Value::Object(object)) => object,
        _ => unreachable!("a manifest is a struct of plain data"),
    }
}

/// The manifest at `path`; a file there that is none is refused, since nothing says whose it is.
fn read(path: &Path) -> Result<Option<Map<String, Value>>> {
    let bytes = match read_at_most(path, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(Error::Io { source, .. }) if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|_| Error::format(path, "found a file that is no manifest of ncsn"))
}

/// The patterns of the files that a manifest says are ours.
fn listed(manifest: &Map<String, Value>, kind: &Kind) -> Vec<String> {
    let files = manifest.get(FILES).and_then(Value::as_array);
    let text = |value: &Value| value.as_str().map(String::from);
    files.map_or_else(|| (kind.files)(manifest), |files| files.iter().filter_map(text).collect())
}

/// The folders in which files of these patterns lie, below the folder itself.
fn folders(patterns: &[String]) -> BTreeSet<String> {
    let inner = |pattern: &String| pattern.split_once('/').map(|(folder, _)| folder.to_string());
    // From a manifest, which anybody may have written.
    patterns.iter().filter_map(inner).filter(|folder| !folder.is_empty() && folder != "." && folder != "..").collect()
}

/// The names in `folder` and in those of its folders that are `inner`, but for hidden ones.
fn names(folder: &Path, inner: &BTreeSet<String>) -> Result<Vec<String>> {
    let list = |path: &Path| -> Result<Vec<(String, bool)>> {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(path)(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io(path))?;
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            found.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
        }
        found.sort();
        Ok(found)
    };
    let mut names = Vec::new();
    for (name, is_folder) in list(folder)?.into_iter().filter(|(name, _)| !name.starts_with('.')) {
        match is_folder && inner.contains(&name) {
            true => {
                let inside = list(&folder.join(&name))?.into_iter().map(|(inside, _)| inside);
                names.extend(inside.filter(|inside| !inside.starts_with('.')).map(|inside| format!("{name}/{inside}")));
            }
            false => names.push(name),
        }
    }
    Ok(names)
}

/// The names in `folder` that are not ours. Beside files of ours only what has, or would be taken for, one of their names counts.
fn foreign(
    folder: &Path,
    kind: &Kind,
    earlier: Option<&Map<String, Value>>,
    made_of: &Map<String, Value>,
) -> Result<Vec<String>> {
    let wanted = (kind.files)(made_of);
    let ours = earlier.map(|earlier| listed(earlier, kind)).unwrap_or_default();
    let inner: BTreeSet<String> = folders(&wanted).into_iter().chain(folders(&ours)).collect();
    let is_foreign = |name: &String| {
        let is_listed = ours.iter().any(|pattern| matches(pattern, name));
        let is_taken = || name.contains('/') || inner.contains(name) || wanted.iter().any(|p| matches(p, name));
        let is_manifest = earlier.is_some() && name == kind.manifest;
        !is_listed && !is_manifest && !(kind.neighbours)(name) && (earlier.is_none() || is_taken())
    };
    Ok(names(folder, &inner)?.into_iter().filter(is_foreign).collect())
}

/// The first key by whose value two manifests differ, in words.
fn difference(earlier: &Map<String, Value>, made_of: &Map<String, Value>, free: &[&str]) -> Option<String> {
    let keys: BTreeSet<&String> = earlier.keys().chain(made_of.keys()).collect();
    let counts = |key: &&String| key.as_str() != FILES && !free.contains(&key.as_str());
    let key = keys.into_iter().filter(counts).find(|&key| earlier.get(key) != made_of.get(key))?;
    let show = |value: Option<&Value>| match value {
        None => "not told".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    Some(format!("{key} was {}, now {}", show(earlier.get(key)), show(made_of.get(key))))
}

/// Whether `name` is of `pattern`: the same text, but for ranges of numbers, of at least as many digits as the first has:
/// `images/{000000..000024}.png`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('{') else { return pattern == name };
    let (Some(name), Some((range, after))) = (name.strip_prefix(before), rest.split_once('}')) else { return false };
    let Some((first, last)) = range.split_once("..") else { return false };
    let n_digits = name.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, name) = name.split_at(n_digits);
    let is_written_so = n_digits == first.len() || n_digits > first.len() && !digits.starts_with('0');
    let in_range = || {
        let [first, last, found] = [first, last, digits].map(|number| number.parse::<u64>().ok());
        first.is_some() && last.is_some() && found.is_some() && first <= found && found <= last
    };
    is_written_so && in_range() && matches(after, name)
}

/// The pattern of numbers from 0 to below `n`, of at least `n_digits` digits.
pub fn numbers(n: u64, n_digits: usize) -> String {
    format!("{{{:0n_digits$}..{:0n_digits$}}}", 0, n.saturating_sub(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind() -> Kind {
        Kind {
            manifest: "m.json",
            free: &["n"],
            files: |manifest| {
                let n = manifest.get("n").and_then(Value::as_u64).unwrap_or(0);
                vec!["grid.png".into(), format!("images/{}.png", numbers(n, 3))]
            },
            neighbours: |name| name == "known",
        }
    }

    fn open(folder: &Path, made_of: &Value, existing: Existing) -> Result<Output> {
        Output::open(folder, kind(), made_of, existing)
    }

    fn refused(folder: &Path, made_of: &Value) -> String {
        open(folder, made_of, Existing::Keep).err().unwrap().to_string()
    }

    /// A folder with `n` images as the manifest says.
    fn written(seed: u64, n: u64) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), seed, n, Existing::Keep);
        folder
    }

    fn write(folder: &Path, seed: u64, n: u64, existing: Existing) {
        let made_of = json!({ "seed": seed, "n": n });
        let output = open(folder, &made_of, existing).unwrap();
        output.describe(&made_of).unwrap();
        output.make_folders(&made_of).unwrap();
        for k in 0..n {
            fs::write(output.path(&format!("images/{k:03}.png")), "ours").unwrap();
        }
    }

    fn all(folder: &Path) -> Vec<String> {
        names(folder, &["images".to_string()].into()).unwrap()
    }

    #[test]
    fn names_match_patterns_of_numbers() {
        let pattern = format!("images/{}_{}.png", numbers(12, 3), numbers(1001, 3));
        assert_eq!(pattern, "images/{000..011}_{000..1000}.png");
        for name in ["images/000_000.png", "images/011_999.png", "images/005_1000.png"] {
            assert!(matches(&pattern, name), "{name}");
        }
        for name in
            ["images/012_000.png", "images/11_000.png", "images/000_0999.png", "images/000_1001.png", "images/a"]
        {
            assert!(!matches(&pattern, name), "{name}");
        }
        for pattern in ["a{", "a{0}", "a{0..}", "a{x..9}b"] {
            assert!(!matches(pattern, "a5b") && !matches(pattern, "a"), "{pattern}");
        }
    }

    #[test]
    fn a_folder_of_somebody_elses_files_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["notes.txt", "grid.png"] {
            fs::write(folder.path().join(name), "precious").unwrap();
        }
        let message = refused(folder.path(), &json!({ "seed": 1, "n": 2 }));
        assert!(message.contains("holds grid.png and 1 more") && message.contains("--overwrite"), "{message}");
        assert!(!folder.path().join(".lock").exists());
        // Asked to, it replaces what has the name of a new file, and writes beside the rest.
        write(folder.path(), 1, 2, Existing::Replace);
        assert_eq!(all(folder.path()), ["images/000.png", "images/001.png", "m.json", "notes.txt"]);
    }

    #[test]
    fn a_folder_made_the_same_way_is_added_to_and_another_refused_or_replaced() {
        let folder = written(1, 2);
        write(folder.path(), 1, 3, Existing::Keep);
        assert_eq!(all(folder.path()).len(), 4);
        let other = json!({ "seed": 2, "n": 1 });
        let message = refused(folder.path(), &other);
        assert!(message.contains("seed was 1, now 2; m.json tells all"), "{message}");
        assert_eq!(all(folder.path()).len(), 4);
        fs::write(folder.path().join("notes.txt"), "precious").unwrap();
        write(folder.path(), 2, 1, Existing::ReplaceOthers);
        assert_eq!(all(folder.path()), ["images/000.png", "m.json", "notes.txt"]);
    }

    #[test]
    fn what_would_be_taken_for_ours_is_refused_and_survives_overwriting() {
        let folder = written(1, 2);
        fs::write(folder.path().join("images/002.png"), "precious").unwrap();
        fs::write(folder.path().join("images/cat.png"), "precious").unwrap();
        let message = refused(folder.path(), &json!({ "seed": 1, "n": 3 }));
        assert!(message.contains("images/002.png and 1 more"), "{message}");
        write(folder.path(), 1, 1, Existing::Replace);
        assert_eq!(all(folder.path()), ["images/000.png", "images/002.png", "images/cat.png", "m.json"]);
    }

    #[test]
    fn names_that_are_known_and_hidden_ones_are_nobodys_business() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["known", ".DS_Store"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        write(folder.path(), 1, 1, Existing::Keep);
        assert_eq!(all(folder.path()), ["images/000.png", "known", "m.json"]);
    }

    #[test]
    fn a_manifest_cannot_make_anything_outside_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("a");
        fs::create_dir(&inside).unwrap();
        fs::write(folder.path().join("precious"), "x").unwrap();
        let manifest =
            json!({ "seed": 1, "files": ["../precious", "./../precious", "/etc/passwd", "b/../../precious"] });
        fs::write(inside.join("m.json"), manifest.to_string()).unwrap();
        write(&inside, 1, 1, Existing::Replace);
        assert!(folder.path().join("precious").exists());
    }

    #[test]
    fn a_manifest_of_an_earlier_version_lists_what_it_implies() {
        let folder = written(1, 2);
        fs::write(folder.path().join("m.json"), json!({ "seed": 1, "n": 2 }).to_string()).unwrap();
        write(folder.path(), 1, 3, Existing::Keep);
        fs::write(folder.path().join("m.json"), "no manifest").unwrap();
        assert!(refused(folder.path(), &json!({ "seed": 1 })).contains("no manifest of ncsn"));
    }

    #[test]
    fn leftovers_of_killed_calls_are_removed() {
        let folder = written(1, 2);
        for name in ["images/.001.png.7.tmp", ".grid.png.7.tmp", ".other.png.7.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        write(folder.path(), 1, 2, Existing::Keep);
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!(["images/.001.png.7.tmp", ".grid.png.7.tmp", ".other.png.7.tmp"].map(left), [false, false, true]);
    }
}
