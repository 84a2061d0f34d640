//! Numbers of 16 bits, two in a word. WGSL half: shaders/formats/halves.wgsl.

use super::Lane;

pub(super) const TEXT: &str = include_str!("../../shaders/formats/halves.wgsl");

/// The statements that store two words of four halves in lane `at` of this buffer. A lane begins with a word. Of
/// [`Lane::Gathered`], halves that are not the tensor's stay. No single half is stored: threads would share a word.
pub(crate) fn store_halves(lane: Lane, buffer: &str, at: &str, words: &str) -> String {
    match lane {
        Lane::Four => format!("{buffer}[{at}] = {words};"),
        Lane::Tail => String::new(),
        Lane::Gathered => {
            let word = |k: u32, at: &str, of: &str| {
                let last = 2 * k;
                format!(
                    "if last >= {last}u {{ {buffer}[{at}] = \
                     select({of}, (of_others & {buffer}[{at}]) | ({of} & 0xffffu), last == {last}u); }}"
                )
            };
            format!(
                "{{ let words = {words}; let first = ({at}) >> 1u; let last = last_of(at); \
                 const of_others = 0xffff0000u; {} {} }}",
                word(0, "first", "words.x"),
                word(1, "first + 1u", "words.y")
            )
        }
    }
}
