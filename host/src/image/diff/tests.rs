use super::super::build::Inputs;
use super::super::testing::{NOW, inputs};
use super::*;
use crate::image::{build, inspect};

fn differences(change: impl FnOnce(&mut Inputs)) -> Vec<Difference> {
    let mut other = inputs();
    change(&mut other);
    let [first, second] = [inputs(), other].map(|inputs| {
        let image = build(&inputs, None, NOW).unwrap().image;
        inspect(&image).unwrap()
    });
    diff(&first, &second)
}

fn places(change: impl FnOnce(&mut Inputs)) -> Vec<(String, Vec<u8>)> {
    differences(change).into_iter().map(|difference| (difference.place, difference.pcrs)).collect()
}

fn expected(places: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    places.iter().map(|(place, pcrs)| ((*place).to_owned(), pcrs.to_vec())).collect()
}

#[test]
fn the_same_image_has_no_differences() {
    assert_eq!(differences(|_| ()), []);
}

#[test]
fn each_difference_has_its_place_and_its_pcrs() {
    let kernel = places(|inputs| inputs.kernel.contents.push(0));
    assert_eq!(kernel, expected(&[("kernel", &[0, 1])]));
    let init = places(|inputs| inputs.init.contents.push(0));
    assert_eq!(init, expected(&[("ramdisk 0: init", &[0, 1]), ("ramdisk 0", &[0, 1])]));
    let application = places(|inputs| inputs.application[1].input.contents.push(b'\n'));
    assert_eq!(
        application,
        expected(&[
            ("ramdisk 0: manifest", &[0, 1]),
            ("ramdisk 0", &[0, 1]),
            ("ramdisk 1: app/enclave.toml", &[0, 2]),
            ("ramdisk 1", &[0, 2]),
        ])
    );
    assert_eq!(places(|inputs| inputs.name.push('x')), expected(&[("metadata", &[])]));
}

#[test]
fn what_only_one_image_has_is_named() {
    let differences = differences(|inputs| drop(inputs.application.remove(0)));
    let gone = differences.iter().find(|difference| difference.place == "ramdisk 1: app/root.json").unwrap();
    assert!(gone.first.as_ref().unwrap().starts_with("file 0644 0:0 at 0, 2 bytes"), "{gone:?}");
    assert_eq!(gone.second, None);
}
