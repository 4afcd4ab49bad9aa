#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ff_cli::fuzz::url(bytes);
});
