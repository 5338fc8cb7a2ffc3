//! What is known of samples before there are any.

use ncsn::eval::ImageSet;

/// What samples are, or will be: enough to refuse what cannot be found out about them.
pub struct Subject {
    /// Where they come from.
    pub name: String,
    /// How many there are.
    pub n: usize,
    /// 1 if they are grey, otherwise 3.
    pub channels: usize,
    /// `[height, width]`
    pub size: [usize; 2],
}

impl From<&ImageSet> for Subject {
    fn from(images: &ImageSet) -> Self {
        let name = images.name().to_string();
        Self { name, n: images.len(), channels: images.channels(), size: images.size() }
    }
}
