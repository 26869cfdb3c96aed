//! The binding to `libchdb`, loaded at run time: the only unsafe code of the project.
//!
//! Ownership as the library defines it: a connection is closed once, a result is destroyed once,
//! and a stream handle is destroyed after its last use, also after a cancel.
//! A connection and what it opens stay on the thread that opened them; the types are `!Send`.
//! The library is never unloaded, because its threads outlive every handle.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

type Conn = *mut c_void;
type Stream = *mut c_void;
type Res = *mut c_void;

/// Declares the table of symbols and the function that fills it.
macro_rules! api {
    ($($field:ident = $symbol:literal : fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        #[derive(Clone, Copy)]
        struct Api { $($field: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)* }

        impl Api {
            fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $(
                        // SAFETY: the type is the C signature of this symbol in the pinned version
                        // of the library, which the caller never unloads.
                        $field: *unsafe { library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>($symbol)? },
                    )*
                })
            }
        }
    };
}

api! {
    signal_handlers = b"chdb_set_signal_handlers_enabled\0": fn(c_int);
    connect = b"chdb_connect\0": fn(c_int, *mut *mut c_char) -> *mut Conn;
    close = b"chdb_close_conn\0": fn(*mut Conn);
    query = b"chdb_query_n\0": fn(Conn, *const u8, usize, *const u8, usize) -> Res;
    stream = b"chdb_stream_query_n\0": fn(Conn, *const u8, usize, *const u8, usize) -> Res;
    stream_fetch = b"chdb_stream_fetch_result\0": fn(Conn, Res) -> Res;
    stream_cancel = b"chdb_stream_cancel_query\0": fn(Conn, Res);
    insert = b"chdb_stream_insert_n\0": fn(Conn, *const u8, usize, *const u8, usize) -> Stream;
    insert_error = b"chdb_stream_insert_error\0": fn(Stream) -> *const c_char;
    insert_append = b"chdb_stream_append\0": fn(Stream, *const u8, usize) -> c_int;
    insert_done = b"chdb_stream_done\0": fn(Stream) -> Res;
    insert_cancel = b"chdb_stream_cancel_insert\0": fn(Stream);
    insert_destroy = b"chdb_destroy_insert_stream\0": fn(Stream);
    result_buffer = b"chdb_result_buffer\0": fn(Res) -> *const u8;
    result_length = b"chdb_result_length\0": fn(Res) -> usize;
    result_error = b"chdb_result_error\0": fn(Res) -> *const c_char;
    result_rows = b"chdb_result_rows_read\0": fn(Res) -> u64;
    result_bytes = b"chdb_result_bytes_read\0": fn(Res) -> u64;
    read_rows = b"chdb_result_storage_rows_read\0": fn(Res) -> u64;
    read_bytes = b"chdb_result_storage_bytes_read\0": fn(Res) -> u64;
    written_rows = b"chdb_result_rows_written\0": fn(Res) -> u64;
    written_bytes = b"chdb_result_bytes_written\0": fn(Res) -> u64;
    destroy = b"chdb_destroy_query_result\0": fn(Res);
}

/// What the engine counted for one statement, or for one chunk of a streamed one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) read_rows: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_rows: u64,
    pub(crate) written_bytes: u64,
    pub(crate) result_rows: u64,
    pub(crate) result_bytes: u64,
}

/// The loaded library and the data path; one per process.
pub(crate) struct Engine {
    api: Api,
    path_argument: CString,
}

/// A session of the engine: its settings, its database and its parameters are its own.
pub(crate) struct Connection<'e> {
    api: &'e Api,
    connection: NonNull<Conn>,
    /// Keeps the type on its thread.
    not_send: PhantomData<*const ()>,
}

/// A `SELECT` whose rows come in chunks. Dropping it early cancels the query.
pub(crate) struct QueryStream<'c> {
    connection: &'c Connection<'c>,
    handle: Res,
    finished: bool,
}

/// An `INSERT` that takes its data in pieces. Dropping it before `finish` cancels it.
pub(crate) struct InsertStream<'c> {
    api: &'c Api,
    handle: Stream,
    finished: bool,
}

/// The rows of one statement or one chunk, in the format asked for.
pub(crate) struct Output<'c> {
    api: &'c Api,
    result: NonNull<c_void>,
}

// === impl Engine ===

impl Engine {
    /// Loads the library with its symbols kept local, and turns its signal handlers off.
    pub(crate) fn load(library: &Path, data: &Path) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers; it is the pinned engine, and this
        // process exists to host it.
        let library = unsafe { Library::open(Some(library), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|error| format!("cannot load the library: {error}"))?;
        let api = Api::load(&library).map_err(|error| format!("not a chdb library: {error}"))?;
        // The engine's threads run until the process ends, so its code must stay mapped.
        std::mem::forget(library);
        let mut argument = OsString::from("--path=");
        argument.push(data);
        let path_argument =
            CString::new(argument.as_bytes()).map_err(|_| "the data path contains a zero byte".to_owned())?;
        // SAFETY: called before the first connect, with a plain integer.
        unsafe { (api.signal_handlers)(0) };
        Ok(Self { api, path_argument })
    }

    /// Opens a session. The first one of the process starts the engine on the data path.
    pub(crate) fn connect(&self) -> Result<Connection<'_>, String> {
        let mut arguments = [c"chdb".as_ptr().cast_mut(), self.path_argument.as_ptr().cast_mut()];
        // SAFETY: two zero-terminated strings that live through the call; the library copies them
        // and does not write to them.
        let connection = unsafe { (self.api.connect)(2, arguments.as_mut_ptr()) };
        let connection = NonNull::new(connection)
            .ok_or_else(|| "the engine could not be started on the data path".to_owned())?;
        Ok(Connection { api: &self.api, connection, not_send: PhantomData })
    }
}

// === impl Connection ===

impl Connection<'_> {
    fn handle(&self) -> Conn {
        // SAFETY: the pointer came from a successful connect and is freed only on drop.
        unsafe { *self.connection.as_ptr() }
    }

    /// Runs one statement and holds its whole result. The error is the engine's own text.
    pub(crate) fn query(&self, sql: &[u8], format: &str) -> Result<Output<'_>, String> {
        // SAFETY: an open connection; both buffers are passed with their lengths and are only
        // read during the call.
        let result = unsafe {
            (self.api.query)(self.handle(), sql.as_ptr(), sql.len(), format.as_ptr(), format.len())
        };
        Output::new(self.api, result)
    }

    /// Starts a `SELECT` whose rows are fetched in chunks.
    pub(crate) fn stream(&self, sql: &[u8], format: &str) -> Result<QueryStream<'_>, String> {
        // SAFETY: as in `query`.
        let handle = unsafe {
            (self.api.stream)(self.handle(), sql.as_ptr(), sql.len(), format.as_ptr(), format.len())
        };
        if handle.is_null() {
            return Err("the engine gave no result".to_owned());
        }
        // SAFETY: `handle` is a live result.
        if let Some(error) = unsafe { text((self.api.result_error)(handle)) } {
            // SAFETY: destroyed once, here.
            unsafe { (self.api.destroy)(handle) };
            return Err(error);
        }
        Ok(QueryStream { connection: self, handle, finished: false })
    }

    /// Opens an insert. `sql` is the `INSERT` without a `FORMAT` clause and without data.
    pub(crate) fn insert(&self, sql: &[u8], format: &str) -> Result<InsertStream<'_>, String> {
        // SAFETY: as in `query`.
        let handle = unsafe {
            (self.api.insert)(self.handle(), sql.as_ptr(), sql.len(), format.as_ptr(), format.len())
        };
        if handle.is_null() {
            return Err("the engine gave no insert stream".to_owned());
        }
        let mut stream = InsertStream { api: self.api, handle, finished: false };
        match stream.error() {
            None => Ok(stream),
            Some(error) => {
                // An insert that did not open has nothing to cancel.
                stream.finished = true;
                Err(error)
            }
        }
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        // SAFETY: opened by connect, closed once; streams and results borrow the connection and
        // are gone by now.
        unsafe { (self.api.close)(self.connection.as_ptr()) };
    }
}

// === impl QueryStream ===

impl QueryStream<'_> {
    /// The next chunk; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Output<'_>>, String> {
        if self.finished {
            return Ok(None);
        }
        let api = self.connection.api;
        // SAFETY: the connection and the handle are live, and the stream has not ended.
        let result = unsafe { (api.stream_fetch)(self.connection.handle(), self.handle) };
        match Output::new(api, result) {
            Ok(output) if output.bytes().is_empty() => {
                self.finished = true;
                Ok(None)
            }
            Ok(output) => Ok(Some(output)),
            Err(error) => {
                self.finished = true;
                Err(error)
            }
        }
    }
}

impl Drop for QueryStream<'_> {
    fn drop(&mut self) {
        let api = self.connection.api;
        if !self.finished {
            // SAFETY: both handles are live and the stream has not ended.
            unsafe { (api.stream_cancel)(self.connection.handle(), self.handle) };
        }
        // SAFETY: the last use of the handle.
        unsafe { (api.destroy)(self.handle) };
    }
}

// === impl InsertStream ===

impl InsertStream<'_> {
    fn error(&self) -> Option<String> {
        // SAFETY: a live stream; the text belongs to the stream and is copied at once.
        unsafe { text((self.api.insert_error)(self.handle)) }
    }

    /// Hands over a piece of the data; blocks while the engine has enough to do.
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), String> {
        // SAFETY: a live stream that has neither been finished nor cancelled; the engine copies
        // the bytes during the call.
        match unsafe { (self.api.insert_append)(self.handle, data.as_ptr(), data.len()) } {
            0 => Ok(()),
            _ => Err(self.error().unwrap_or_else(|| "the engine took no more data".to_owned())),
        }
    }

    /// Ends the data and waits until the rows are inserted.
    pub(crate) fn finish(mut self) -> Result<Counts, String> {
        self.finished = true;
        // SAFETY: a live stream that has neither been finished nor cancelled.
        let result = unsafe { (self.api.insert_done)(self.handle) };
        let counts = Output::new(self.api, result).map(|output| output.counts());
        match self.error() {
            Some(error) => Err(error),
            None => counts,
        }
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        if !self.finished {
            // SAFETY: a live stream that has not been finished.
            unsafe { (self.api.insert_cancel)(self.handle) };
        }
        // SAFETY: the last use of the handle.
        unsafe { (self.api.insert_destroy)(self.handle) };
    }
}

// === impl Output ===

impl<'c> Output<'c> {
    fn new(api: &'c Api, result: Res) -> Result<Self, String> {
        let result = NonNull::new(result).ok_or_else(|| "the engine gave no result".to_owned())?;
        let output = Self { api, result };
        // SAFETY: a live result; the text belongs to it and is copied at once.
        match unsafe { text((api.result_error)(output.result.as_ptr())) } {
            Some(error) => Err(error),
            None => Ok(output),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        let result = self.result.as_ptr();
        // SAFETY: a live result.
        let (buffer, length) =
            unsafe { ((self.api.result_buffer)(result), (self.api.result_length)(result)) };
        if buffer.is_null() || length == 0 {
            return &[];
        }
        // SAFETY: the library keeps `length` bytes at `buffer` until the result is destroyed,
        // which the borrow prevents.
        unsafe { std::slice::from_raw_parts(buffer, length) }
    }

    pub(crate) fn counts(&self) -> Counts {
        let (api, result) = (self.api, self.result.as_ptr());
        // SAFETY: a live result.
        unsafe {
            Counts {
                read_rows: (api.read_rows)(result),
                read_bytes: (api.read_bytes)(result),
                written_rows: (api.written_rows)(result),
                written_bytes: (api.written_bytes)(result),
                result_rows: (api.result_rows)(result),
                result_bytes: (api.result_bytes)(result),
            }
        }
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        // SAFETY: destroyed once; nothing borrows the buffer any more.
        unsafe { (self.api.destroy)(self.result.as_ptr()) };
    }
}

// === the process ===

/// Asks the kernel for `SIGTERM` when the thread that started this process ends. Linux only; the
/// end of the control socket says the same everywhere.
pub(crate) fn terminate_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: sets an attribute of this process; a failure leaves it as it was.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
}

/// Ends the process at once: the engine's threads must not race its static destructors.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running exit handlers; nothing is buffered here.
    unsafe { libc::_exit(code) }
}

/// Copies a C string.
///
/// # Safety
/// `pointer` is null or points to a zero-terminated string.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}
