// Package ecmajson computes the exact bytes of JSON.stringify(JSON.parse(text))
// as an ECMAScript engine such as Node produces them, and reads fields out of
// the same text in the same pass.
//
// A signature is made over bytes. Where the signer serialized a parsed value,
// a verifier has to reproduce that serialization byte for byte, whatever
// spelling the text had on the wire. And code that acts on a field of the text
// has to see the value the signature covered: a second parser that treats a
// repeated key or an escape differently is a way around the signature. One
// [Parse] therefore returns both.
//
// # The form
//
//   - No white space between tokens.
//   - Object members: keys that are array indices ("0" to "4294967294" in
//     canonical decimal) first, ascending; then the others in the order in
//     which they first appeared (ECMA-262 OrdinaryOwnPropertyKeys). A key that
//     appears again keeps its place and takes the later value. "__proto__" is
//     a key like any other.
//   - Numbers: the nearest IEEE 754 double in the shortest form that reads back
//     (ECMA-262 Number::toString): 1e+21, 1e-7, 0 for -0, null when the literal
//     is beyond the largest double.
//   - Strings: \b \f \n \r \t \" \\, other controls below U+0020 as \u00xx,
//     lone surrogates as \udxxx, both in lower-case hex; everything else as
//     UTF-8 (ECMA-262 QuoteJSONString).
//
// The accepted grammar is that of JSON.parse (ECMA-404): white space is space,
// tab, line feed and carriage return only, no byte order mark, nothing after
// the value. Text that is not UTF-8 is refused with [ErrUTF8], for an engine
// never sees such bytes as they are.
//
// # Cost
//
// Time is linear in the input, with a factor of the same size for any bytes: no
// number is slow to convert, and no keys are slow to put into order. Parsing is
// iterative. Text that is already in its ECMAScript form is not copied at all.
// For any other text the memory is at most about six times the input, whatever
// the input (see [Limits] for what is not counted).
package ecmajson
