#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    ff_test::fuzz::log_entry(bytes);
});
