//! Output that cannot be written.

use std::fs::File;
use std::process::Stdio;

use crate::{TRAIN, ncsn, scratch, succeeds};

#[test]
fn a_result_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_not() {
    let folder = scratch();
    succeeds(folder.path(), &TRAIN);
    for args in [&["info", "--doc", "d"][..], &["info", "--cpu"], &["--help"], &["train", "--help"], &["--version"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = ncsn(folder.path(), args).stdout(full).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: the output cannot be written") && said.lines().count() == 1, "{said}");

        let mut child = ncsn(folder.path(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && said.is_empty(), "{args:?}: {said}");
    }
    // What is said about the work is no result.
    let full = File::options().write(true).open("/dev/full").unwrap();
    let args = ["sample", "--doc", "d", "-o", "s", "--n", "1", "--final-only"];
    assert!(ncsn(folder.path(), &args).stdout(full).status().unwrap().success());
}
