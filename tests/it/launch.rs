//! `loopgate launch` as a user runs it. What it prints for which choice is tested beside the rules, in `src/launch`.

use crate::cli::Place;

#[test]
fn a_compose_file_takes_no_address_of_ours() {
    let said = Place::new().run(&["launch", "--format=compose", "--host=10.0.0.1"]);
    said.assert_refused(&["--host", "containers have addresses of their own"]);
    assert_eq!(said.out, "");
}

#[test]
fn what_no_machine_has_the_gpus_for_is_a_command_for_two_and_no_compose_file() {
    let place = Place::new();
    let wide = ["launch", "--hardware=gb200", "--quantization=fp8"];
    let said = place.run(&wide);
    assert!(said.code == Some(0) && said.err.contains("start its command on 2 machines"), "{said:?}");
    let said = place.run(&[&wide[..], &["--format=compose"]].concat());
    said.assert_refused(&["one instance takes 8 GPUs", "--format shell"]);
    assert_eq!(said.out, "");
}
